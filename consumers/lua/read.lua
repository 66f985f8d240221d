-- Several reads at one moment, in one round trip. ARGV names a read for each of the next keys:
-- 'get', 'head:SIZE', 'hgetall', 'lrange:FIRST:LAST', 'quantiles', 'backlog:GROUP' (takes the stream and its parked
-- stream), 'exists:COUNT' (takes COUNT keys), 'policy' (takes none).
local call = redis.call

local function as_map(flat)
  local map = {}
  for i = 1, #flat, 2 do map[flat[i]] = flat[i + 1] end
  return map
end

-- The oldest entry that the group has not acknowledged: pending ones come before those nobody has read.
local function oldest_waiting(stream, group, delivered)
  local pending = delivered and call('XPENDING', stream, group)[2]
  if pending then return call('XRANGE', stream, pending, pending)[1] or { pending, {} } end
  return call('XRANGE', stream, delivered and '(' .. delivered or '-', '+', 'COUNT', 1)[1]
end

-- Replies { oldest waiting id, its ts, newest id, server ms, parked, group, ... }; '' is unknown or none.
local function backlog(stream, parked, group)
  local now = call('TIME')
  local reply = { '', '', '', now[1] * 1000 + math.floor(now[2] / 1000), call('XLEN', parked) }
  if call('EXISTS', stream) == 0 then return reply end
  reply[3] = as_map(call('XINFO', 'STREAM', stream))['last-generated-id']
  local delivered, rows = nil, call('XINFO', 'GROUPS', stream)
  for i = 1, #rows do
    local row = as_map(rows[i])
    reply[#reply + 1] = row['name']
    if row['name'] == group then delivered = row['last-delivered-id'] end
  end
  local entry = oldest_waiting(stream, group, delivered)
  if entry then reply[1], reply[2] = entry[1], as_map(entry[2])['ts'] or '' end
  return reply
end

-- Replies { count, median, 99th percentile, largest } of the scores, by nearest rank; empty without scores.
local function quantiles(key)
  local count = call('ZCARD', key)
  if count == 0 then return {} end
  local reply = { count }
  for i, share in ipairs({ 0.5, 0.99, 1 }) do
    local rank = math.ceil(share * count) - 1
    reply[i + 1] = call('ZRANGE', key, rank, rank, 'WITHSCORES')[2]
  end
  return reply
end

local replies, k = {}, 1
for i = 1, #ARGV do
  local kind, first, last = ARGV[i]:match('^(%a+):?([^:]*):?([^:]*)$')
  if kind == 'get' then
    replies[i] = call('GET', KEYS[k])
  elseif kind == 'head' then
    replies[i] = call('GETRANGE', KEYS[k], 0, tonumber(first) - 1)
  elseif kind == 'hgetall' then
    replies[i] = call('HGETALL', KEYS[k])
  elseif kind == 'lrange' then
    replies[i] = call('LRANGE', KEYS[k], first, last)
  elseif kind == 'backlog' then
    replies[i] = backlog(KEYS[k], KEYS[k + 1], first)
    k = k + 1
  elseif kind == 'quantiles' then
    replies[i] = quantiles(KEYS[k])
  elseif kind == 'policy' then
    replies[i] = call('INFO', 'memory'):match('maxmemory_policy:(%S+)') or ''
    k = k - 1
  else
    local found = 0
    for at = k, k + tonumber(first) - 1 do found = found + call('EXISTS', KEYS[at]) end
    replies[i] = found
    k = k + tonumber(first) - 1
  end
  k = k + 1
end
return replies
