-- Keep entries from being claimed while we still work on them, if they are still ours.
-- KEYS[1]: stream, ARGV: group, consumer, id, ... Replies with the number renewed.
local group, consumer, renewed = ARGV[1], ARGV[2], 0
for i = 3, #ARGV do
  local id = ARGV[i]
  if #redis.call('XPENDING', KEYS[1], group, id, id, 1, consumer) == 1 then
    redis.call('XCLAIM', KEYS[1], group, consumer, 0, id, 'JUSTID')
    renewed = renewed + 1
  end
end
return renewed
