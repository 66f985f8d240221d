-- The one atomic commit. KEYS[1]: the group's durable cursor, then every key touched. ARGV[1]: group,
-- ARGV[2]: consumer, ARGV[3]: msgpack of { entries, guards, writes }, in which a key is its number in KEYS,
-- ARGV[4]: rows merged by earlier chunks of the same batch and not counted yet, ARGV[5..]: large values.
-- Replies { 'lost', id, ... }, { 'refused', guard number } or { 'ok', merged rows not counted yet }.
-- Checks come first: Lua is not rolled back, so nothing below the line "writes" may fail.
local group, consumer = ARGV[1], ARGV[2]
local body = cmsgpack.unpack(ARGV[3])
local entries, guards, writes = body[1], body[2], body[3]
local call, unpack_number, pack = redis.call, struct.unpack, struct.pack
local format = string.format

-- ownership: the set of ids, not their count --------------------------------------------------------------------
local function owned_ids(stream, ids)
  local owned, room = {}, #ids + 1000
  local rows = call('XPENDING', stream, group, ids[1], ids[#ids], room, consumer)
  for i = 1, #rows do owned[rows[i][1]] = true end
  if #rows == room then
    for i = 1, #ids do
      owned[ids[i]] = #call('XPENDING', stream, group, ids[i], ids[i], 1, consumer) == 1
    end
  end
  return owned
end

local reply, lost = { 'lost' }, false
for i = 1, #entries do
  local ids = entries[i][2]
  local owned = owned_ids(KEYS[entries[i][1]], ids)
  for j = 1, #ids do
    if owned[ids[j]] then reply[#reply + 1] = ids[j] else lost = true end
  end
end
if lost then return reply end

-- guards --------------------------------------------------------------------------------------------------------
local holds = {
  field_is = function(g) return call('HGET', KEYS[g[2]], g[3]) == g[4] end,
  field_below = function(g)
    local now = tonumber(call('HGET', KEYS[g[2]], g[3]) or '')
    return not now or now < g[4]
  end,
  value_is = function(g) return call('GET', KEYS[g[2]]) == g[3] end,
  starts_with = function(g) return call('GETRANGE', KEYS[g[2]], 0, #g[3] - 1) == g[3] end,
  keys_exist = function(g)
    for first = 2, #g, 1000 do
      local names = {}
      for i = first, math.min(first + 999, #g) do names[#names + 1] = KEYS[g[i]] end
      if call('EXISTS', unpack(names)) < #names then return false end
    end
    return true
  end,
}
for i = 1, #guards do
  if not holds[guards[i][1]](guards[i]) then return { 'refused', i - 1 } end
end

-- writes --------------------------------------------------------------------------------------------------------
-- unpack() holds some thousand values at most: longer lists are passed in slices. An empty list is no command.
local SLICE = 1000
local function in_slices(command, key, list)
  for first = 1, #list, SLICE do
    call(command, key, unpack(list, first, math.min(first + SLICE - 1, #list)))
  end
end

local function id_parts(id)
  local ms, seq = id:match('^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

local function later(id, other)
  local ms, seq = id_parts(id)
  local other_ms, other_seq = id_parts(other)
  return ms > other_ms or (ms == other_ms and seq > other_seq)
end

local function last_delivered(stream)
  local groups = call('XINFO', 'GROUPS', stream)
  for i = 1, #groups do
    local row = {}
    for j = 1, #groups[i], 2 do row[groups[i][j]] = groups[i][j + 1] end
    if row['name'] == group then return row['last-delivered-id'] end
  end
end

-- The durable cursor: where a group lost to a flush or an old backup is created again. All before it is done:
-- everything delivered when nothing is pending, else everything before the oldest pending entry.
local function keep_cursor(stream)
  local oldest, cursor = call('XPENDING', stream, group)[2], nil
  if oldest then
    local ms, seq = id_parts(oldest)
    cursor = seq > 0 and format('%.0f-%.0f', ms, seq - 1) or format('%.0f-999999999', ms - 1)
  else
    cursor = last_delivered(stream)
  end
  local kept = call('HGET', KEYS[1], stream)
  if not kept or later(cursor, kept) then call('HSET', KEYS[1], stream, cursor) end
end

for i = 1, #entries do
  local stream, ids = KEYS[entries[i][1]], entries[i][2]
  if entries[i][3] then
    call('XACK', stream, group, unpack(ids))
    keep_cursor(stream)
  end
end

-- Derived data is recomputed, never restored: it stays out of replication where the server lets us say so.
local function derived(write)
  if redis.set_repl then redis.set_repl(redis.REPL_NONE) end
  write()
  if redis.set_repl then redis.set_repl(redis.REPL_ALL) end
end

local function add(stream, fields) call('XADD', stream, '*', unpack(fields)) end

local function raise(key, field, text)
  local now = tonumber(call('HGET', key, field) or '')
  if not now or now < tonumber(text) then call('HSET', key, field, text) end
end

local function sample(key, counter, text)
  call('ZADD', key, text, format('%d', call('HINCRBY', counter, 'samples', 1) % 1024))
end

-- The server's time in whole microseconds, which fit a double until the year 2255.
local function now_us()
  local now = call('TIME')
  return now[1] * 1000000 + now[2]
end

local STAMP = 24

-- Is record newer than the stored bytes? (ms, rank, seq), then the values as unsigned words.
local function newer(record, stored)
  local ms, rank, _, seq = unpack_number('<i8i4i4i8', record)
  local old_ms, old_rank, _, old_seq = unpack_number('<i8i4i4i8', stored)
  if ms ~= old_ms then return ms > old_ms end
  if rank ~= old_rank then return rank > old_rank end
  if seq ~= old_seq then return seq > old_seq end
  for at = STAMP + 1, #record, 4 do
    local word, old_word = unpack_number('<I4', record, at), unpack_number('<I4', stored, at)
    if word ~= old_word then return word > old_word end
  end
  return false
end

local function mark_dirty(versions, marks)
  if call('HINCRBY', versions, 'lagging', 1) == 1 then
    call('SREM', KEYS[marks[2]], marks[3])
    call('SADD', KEYS[marks[1]], marks[3])
  end
end

local function mark_level(versions, marks)
  if call('HINCRBY', versions, 'lagging', -1) == 0 then
    call('SREM', KEYS[marks[1]], marks[3])
    call('SADD', KEYS[marks[2]], marks[3])
  end
end

local merged = tonumber(ARGV[4])

local function merge_rows(layer, rows, on_change)
  for i = 1, #rows do
    local offset, record, contract, fields = rows[i][1], rows[i][2], rows[i][3], rows[i][4]
    local stored = call('GETRANGE', layer, offset, offset + #record - 1)
    if newer(record, stored) then
      call('SETRANGE', layer, offset, record)
      if #fields > 0 then call('HSET', KEYS[contract], unpack(fields)) end
      merged = merged + 1
      if on_change then on_change(offset, record, stored) end
    end
  end
end

-- Where a feed's watermark stood before this script raised it: so far everything that was level is complete.
local before_raise = {}

-- How long the oldest change of a plane waited to be computed; from now on the next one waits, if there is one.
local function sample_wait(versions, plane, samples, is_behind)
  local since = tonumber(call('HGET', versions, plane .. '|dirty_us') or '')
  local now = now_us()
  if since then sample(KEYS[samples[1]], KEYS[samples[2]], format('%.3f', math.max(0, now - since) / 1000)) end
  if is_behind then
    call('HSET', versions, plane .. '|dirty_us', format('%.0f', now))
  else
    call('HDEL', versions, plane .. '|dirty_us')
  end
end

local function merge_quotes(w)
  local layer, rows, versions, plane = KEYS[w[2]], w[3], KEYS[w[4]], w[5]
  local watermark, flag, marks = KEYS[w[6]], w[7], w[8]
  local levels = call('HMGET', versions, plane .. '|quotes', plane .. '|tiles', plane .. '|published')
  local before = tonumber(levels[1]) or 0
  local version, changed = before + 1, false
  local stamp = pack('<i8', version)
  merge_rows(layer, rows, function(offset, record, stored)
    -- bid and ask are the first eight bytes after the stamp: sizes alone change no tile
    if record:sub(STAMP + 1, STAMP + 8) ~= stored:sub(STAMP + 1, STAMP + 8) then
      call('SETRANGE', layer, offset + #record, stamp)
      changed = true
    end
  end)
  if not changed then return end
  local ts = call('HGET', watermark, 'ts') or '0'
  call('SETRANGE', layer, 0, pack('<i8d', version, tonumber(ts)))
  call('HSET', versions, plane .. '|quotes', format('%d', version), plane .. '|quotes_wm', ts)
  if (tonumber(levels[2]) or 0) == before then
    call('HSET', versions, plane .. '|dirty_us', format('%.0f', now_us()))
    mark_dirty(versions, marks)
    add(KEYS[flag[1]], flag[2])
    if (tonumber(levels[3]) or 0) == before then
      raise(versions, plane .. '|published_wm', before_raise[watermark] or ts)
    end
  end
end

local apply = {
  set = function(w)
    local value = type(w[3]) == 'number' and ARGV[4 + w[3]] or w[3]
    local function write()
      if w[4] > 0 then call('SET', KEYS[w[2]], value, 'PX', w[4]) else call('SET', KEYS[w[2]], value) end
    end
    if w[5] then derived(write) else write() end
  end,
  patch = function(w)
    local key, runs = KEYS[w[2]], w[3]
    derived(function()
      for i = 1, #runs, 2 do call('SETRANGE', key, runs[i], runs[i + 1]) end
    end)
  end,
  hset = function(w)
    in_slices('HSET', KEYS[w[2]], w[3])
    if w[4] > 0 then call('PEXPIRE', KEYS[w[2]], w[4]) end
  end,
  hdel = function(w) in_slices('HDEL', KEYS[w[2]], w[3]) end,
  count = function(w)
    for i = 1, #w[3], 2 do call('HINCRBY', KEYS[w[2]], w[3][i], w[3][i + 1]) end
  end,
  count_merged = function(w)
    local applied = math.min(merged, w[3])
    call('HINCRBY', KEYS[w[2]], 'applied', applied)
    call('HINCRBY', KEYS[w[2]], 'older', w[3] - applied)
    merged = merged - applied
  end,
  incrby = function(w) call('INCRBY', KEYS[w[2]], w[3]) end,
  raise = function(w) raise(KEYS[w[2]], w[3], w[4]) end,
  del = function(w) for i = 2, #w do call('DEL', KEYS[w[i]]) end end,
  renew = function(w) for i = 3, #w do call('PEXPIRE', KEYS[w[i]], w[2]) end end,
  sadd = function(w) in_slices('SADD', KEYS[w[2]], w[3]) end,
  srem = function(w) in_slices('SREM', KEYS[w[2]], w[3]) end,
  zadd = function(w)
    in_slices('ZADD', KEYS[w[2]], w[3])
    call('PEXPIRE', KEYS[w[2]], w[4])
  end,
  push = function(w)
    call('LPUSH', KEYS[w[2]], w[3])
    call('LTRIM', KEYS[w[2]], 0, w[4] - 1)
  end,
  sample = function(w) sample(KEYS[w[2]], KEYS[w[3]], w[4]) end,
  newest = function(w)
    local stored = call('GET', KEYS[w[2]])
    if stored then
      local now = cjson.decode(stored)
      if now.ts > w[3] or (now.ts == w[3] and now.value >= w[4]) then return end
    end
    call('SET', KEYS[w[2]], w[5])
  end,
  emit = function(w)
    if w[4] > 0 then
      call('XADD', KEYS[w[2]], 'MAXLEN', '~', w[4], '*', unpack(w[3]))
    else
      add(KEYS[w[2]], w[3])
    end
  end,
  publish = function(w)
    local stream, state = KEYS[w[2]], KEYS[w[3]]
    local now = call('TIME')
    local generation = call('HGET', state, 'generation')
    if not generation then
      generation = now[1] .. format('%06d', now[2])
      call('HSET', state, 'generation', generation)
    end
    local seq = call('HINCRBY', state, 'seq', 1)
    local oldest = format('%d', tonumber(now[1]) * 1000 - w[6])
    call('XADD', stream, 'MINID', '~', oldest, '*',
      'type', w[4], 'seq', format('%d', seq), 'generation', generation, 'data', w[5])
  end,
  feed_watermark = function(w)
    local key, stream = KEYS[w[2]], KEYS[w[3]]
    before_raise[key] = call('HGET', key, 'ts') or '0'
    raise(key, 'newest', w[5])
    local pending = call('XPENDING', stream, w[4])
    if pending[1] == 0 then
      raise(key, 'ts', call('HGET', key, 'newest'))
      return
    end
    local oldest = call('XRANGE', stream, pending[2], pending[2])[1]
    if not oldest then return end
    for i = 1, #oldest[2], 2 do
      local ts = oldest[2][i] == 'ts' and tonumber(oldest[2][i + 1])
      if ts then raise(key, 'ts', format('%.6f', ts - 0.000001)) end
    end
  end,
  merge = function(w)
    if w[4] then merge_quotes(w) else merge_rows(KEYS[w[2]], w[3]) end
  end,
  advance = function(w)
    local versions, plane, layer, source, to = KEYS[w[2]], w[3], w[4], w[5], w[6]
    local names = { plane .. '|' .. layer, plane .. '|' .. source }
    if w[9] then names[3] = plane .. '|' .. w[9] end
    local levels = call('HMGET', versions, unpack(names))
    local before, ahead_of = tonumber(levels[1]) or 0, tonumber(levels[2]) or 0
    call('HSET', versions, names[1], format('%d', to))
    raise(versions, names[1] .. '_wm', w[7])
    if ahead_of > to then
      add(KEYS[w[8][1]], w[8][2])
    elseif w[11] and before < to then
      mark_level(versions, w[11])
    end
    if w[12] and before < to then sample_wait(versions, plane, w[12], ahead_of > to) end
    if w[10] and (tonumber(levels[3]) or 0) == before and before < to then add(KEYS[w[10][1]], w[10][2]) end
  end,
}

for i = 1, #writes do apply[writes[i][1]](writes[i]) end
return { 'ok', merged }
