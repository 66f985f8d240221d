-- A slot of the shared request budget, if one is free now. KEYS[1]: HASH, ARGV[1]: requests a window (0: no limit),
-- ARGV[2]: window in ms, ARGV[3]: hold everybody for so many ms (0: take a slot). Replies 0 if a slot was taken, else
-- the ms after which to ask again: a slot is never given in advance, for who is late then would send too soon before
-- the next.
-- The fields 0 to n-1 are a ring of the newest n slots: a request goes a window after the n-th before it.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local limit, window, hold = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local held = tonumber(redis.call('HGET', KEYS[1], 'hold') or '0')

if hold > 0 then
  held = math.max(held, now + 1 + hold) -- of this millisecond a part is over
  redis.call('HSET', KEYS[1], 'hold', string.format('%.0f', held))
  redis.call('PEXPIRE', KEYS[1], math.max(window, held - now) + window)
  return held - now
end
if held > now then return held - now end
if limit > 0 then
  local slot = tonumber(redis.call('HGET', KEYS[1], 'next') or '0') % limit
  local before = redis.call('HGET', KEYS[1], slot)
  if before and tonumber(before) + window > now then return tonumber(before) + window - now end
  redis.call('HSET', KEYS[1], slot, string.format('%.0f', now), 'next', string.format('%.0f', (slot + 1) % limit))
  redis.call('PEXPIRE', KEYS[1], 2 * window)
end
return 0
