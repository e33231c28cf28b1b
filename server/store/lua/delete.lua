-- Removes an experiment and all it has, when it has not changed.
--
-- KEYS[1]  hash   head; read: generation, uid
-- KEYS[2]  hash   bucket -> number of ids; its fields must be the buckets that are given
-- KEYS[3..] every other key of the experiment, any types; the lists of the buckets last
-- ARGV[1]  expected generation; "0" for one whose head is gone, of another type, or has no generation
-- ARGV[2]  last moment for it, Unix ms; after it version.lua may have announced it already
-- ARGV[3..] names of the buckets
-- Returns {"ok", uid or ""}, or why nothing changed: {"generation", stored}, {"late"}, {"buckets"} (others than
-- given: list them again).
local time = redis.call('TIME')
if tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) > tonumber(ARGV[2]) then
    return {'late'}
end
local kind = redis.call('TYPE', KEYS[1])['ok']
local generation, uid = '0', ''
if kind == 'hash' then
    local head = redis.call('HMGET', KEYS[1], 'generation', 'uid')
    if head[1] and string.find(head[1], '^[1-9]%d*$') then
        generation = head[1]
    end
    uid = head[2] or ''
end
if generation ~= ARGV[1] then
    return {'generation', generation}
end
if redis.call('TYPE', KEYS[2])['ok'] == 'hash' then
    if redis.call('HLEN', KEYS[2]) ~= #ARGV - 2 then
        return {'buckets'}
    end
    for index = 3, #ARGV do
        if redis.call('HEXISTS', KEYS[2], ARGV[index]) == 0 then
            return {'buckets'}
        end
    end
end
for _, key in ipairs(KEYS) do
    redis.call('UNLINK', key)
end
return {'ok', uid}
