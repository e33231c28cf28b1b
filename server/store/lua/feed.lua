-- Takes what a source of rewards brings to one slot, all or nothing: log entries, counts, and how far it was taken.
-- A repeat is refused by its place, so a call whose answer was lost may be sent again.
--
-- KEYS[1] hash   fed: positions and counts by source; no TTL
-- KEYS[2] stream log of the experiment (must exist), or the dead letters; no TTL
-- KEYS[3] hash   head of the experiment; read: uid; or, for dead letters, zset of the places of the newest by time
-- ARGV[1] uid of the experiment; "" for dead letters; "once" for those that are passed over where their place is known
-- ARGV[2] most entries that the stream may have, "0" for any number
-- ARGV[3] field that counts entries which had to make room, or ""
-- ARGV[4..6] how many: moves, counts, entries
-- ARGV[7..] those, in this order: field, text before, text after | field, whole number to add |
--           its place, number of its fields and values, each of them
-- Returns {"ok"}, or why nothing changed: {"gone"} (no such experiment), {"moved", present text of each move}.
local buries, once = ARGV[1] == '' or ARGV[1] == 'once', ARGV[1] == 'once'
for index, kind in ipairs({'hash', 'stream', buries and 'zset' or 'hash'}) do
    local found = redis.call('TYPE', KEYS[index])['ok']
    if found ~= kind and found ~= 'none' then
        return redis.error_reply('WRONGTYPE ' .. KEYS[index] .. ' is a ' .. found .. ', not a ' .. kind)
    end
end
if not buries then
    local uid = redis.call('HGET', KEYS[3], 'uid')
    if uid ~= ARGV[1] or redis.call('EXISTS', KEYS[2]) == 0 then
        return {'gone'}
    end
end
local moves, counts, entries = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local answer, elsewhere = {'moved'}, false
for index = 0, moves - 1 do
    local at = 7 + 3 * index
    local now = redis.call('HGET', KEYS[1], ARGV[at]) or ''
    answer[index + 2] = now
    elsewhere = elsewhere or ARGV[at + 1] ~= now
end
if elsewhere then
    return answer
end
local counts_at = 7 + 3 * moves
for index = 0, counts - 1 do
    local stored = redis.call('HGET', KEYS[1], ARGV[counts_at + 2 * index]) or '0'
    if not string.find(stored, '^%d+$') or #stored > 17 then
        return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' has no number at ' .. ARGV[counts_at + 2 * index])
    end
end

-- From here on nothing can fail, but for lack of memory at the first write.
local at, passed = counts_at + 2 * counts, 0
local now = once and redis.call('TIME')[1]
for _ = 1, entries do
    local size = tonumber(ARGV[at + 1])
    if once and redis.call('ZADD', KEYS[3], 'NX', now, ARGV[at]) == 0 then
        passed = passed + 1
    else
        redis.call('XADD', KEYS[2], '*', unpack(ARGV, at + 2, at + 1 + size))
    end
    at = at + size + 2
end
if once then
    redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -1 - tonumber(ARGV[2]))
end
for index = 0, moves - 1 do
    redis.call('HSET', KEYS[1], ARGV[7 + 3 * index], ARGV[9 + 3 * index])
end
for index = 0, counts - 1 do
    local more = tonumber(ARGV[counts_at + 2 * index + 1]) - passed
    redis.call('HINCRBY', KEYS[1], ARGV[counts_at + 2 * index], string.format('%.0f', more))
end
if ARGV[2] ~= '0' then
    local dropped = redis.call('XTRIM', KEYS[2], 'MAXLEN', ARGV[2])
    if dropped > 0 then
        redis.call('HINCRBY', KEYS[1], ARGV[3], dropped)
    end
end
return {'ok'}
