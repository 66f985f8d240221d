-- Several reads at one moment, in one round trip. ARGV names a read for each of the next keys:
-- 'get', 'head:SIZE', 'hgetall', 'lrange:FIRST:LAST', 'exists:COUNT' (takes COUNT keys).
local replies, k = {}, 1
for i = 1, #ARGV do
  local kind, first, last = ARGV[i]:match('^(%a+):?(%-?%d*):?(%-?%d*)$')
  if kind == 'get' then
    replies[i] = redis.call('GET', KEYS[k])
  elseif kind == 'head' then
    replies[i] = redis.call('GETRANGE', KEYS[k], 0, tonumber(first) - 1)
  elseif kind == 'hgetall' then
    replies[i] = redis.call('HGETALL', KEYS[k])
  elseif kind == 'lrange' then
    replies[i] = redis.call('LRANGE', KEYS[k], first, last)
  else
    local found = 0
    for at = k, k + tonumber(first) - 1 do found = found + redis.call('EXISTS', KEYS[at]) end
    replies[i] = found
    k = k + tonumber(first) - 1
  end
  k = k + 1
end
return replies
