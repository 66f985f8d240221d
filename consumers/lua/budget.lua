-- A slot of the shared request budget. KEYS[1]: HASH, ARGV[1]: requests a window (0: no limit), ARGV[2]: window in ms,
-- ARGV[3]: hold everybody for so many ms (0: take a slot). Replies the ms to wait before sending.
-- The fields 0 to n-1 are a ring of the newest n slots: a request goes a window after the n-th before it.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local limit, window, hold = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local held = tonumber(redis.call('HGET', KEYS[1], 'hold') or '0')

local function keep(key, from, until_ms)
  redis.call('PEXPIRE', key, math.max(window, until_ms - from) + window)
end

if hold > 0 then
  held = math.max(held, now + 1 + hold) -- of this millisecond a part is over
  redis.call('HSET', KEYS[1], 'hold', string.format('%.0f', held))
  keep(KEYS[1], now, held)
  return held - now
end
local at = math.max(now, held)
if limit > 0 then
  local slot = tonumber(redis.call('HGET', KEYS[1], 'next') or '0') % limit
  local before = redis.call('HGET', KEYS[1], slot)
  if before then at = math.max(at, tonumber(before) + window) end
  redis.call('HSET', KEYS[1], slot, string.format('%.0f', at), 'next', string.format('%.0f', (slot + 1) % limit))
  keep(KEYS[1], now, at)
end
return at - now
