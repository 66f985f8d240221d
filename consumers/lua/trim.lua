-- Trim a stream to what its group has acknowledged; an unread or pending entry is never dropped.
-- KEYS[1]: stream, ARGV[1]: group. Replies with the number of entries dropped.
-- The low watermark is computed here: the server's own `lag` is wrong after trims on some versions.
local groups = redis.call('XINFO', 'GROUPS', KEYS[1])
for i = 1, #groups do
  local row = {}
  for j = 1, #groups[i], 2 do row[groups[i][j]] = groups[i][j + 1] end
  if row['name'] == ARGV[1] then
    local oldest = redis.call('XPENDING', KEYS[1], ARGV[1])[2]
    return redis.call('XTRIM', KEYS[1], 'MINID', '=', oldest or row['last-delivered-id'])
  end
end
return 0
