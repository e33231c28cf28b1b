-- Removes an experiment and all it has, when it has not changed.
--
-- KEYS[1]  hash   head; read: generation, uid
-- KEYS[2]  hash   bucket -> number of ids; its fields must be the buckets that are given
-- KEYS[3]  list   past: audit records of the last deleted experiment of the name; TTL ARGV[5]
-- KEYS[4]  string deletion: digest of the request id that deleted it; TTL ARGV[6]
-- KEYS[5]  list   audit records, oldest first
-- KEYS[6..] every other key of the experiment, any types; the lists of the buckets last
-- ARGV[1]  expected generation; "0" for one whose head is gone, of another type, or has no generation
-- ARGV[2]  last moment for it, Unix ms; after it version.lua may have announced it already
-- ARGV[3]  last audit record, document, or "": then the records go with the experiment
-- ARGV[4]  digest of the request id, or ""
-- ARGV[5]  how long past records are kept, ms
-- ARGV[6]  how long request ids are remembered, ms
-- ARGV[7..] names of the buckets
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
    if redis.call('HLEN', KEYS[2]) ~= #ARGV - 6 then
        return {'buckets'}
    end
    for index = 7, #ARGV do
        if redis.call('HEXISTS', KEYS[2], ARGV[index]) == 0 then
            return {'buckets'}
        end
    end
end
if ARGV[3] ~= '' then
    redis.call('DEL', KEYS[3])
    if redis.call('TYPE', KEYS[5])['ok'] == 'list' then
        redis.call('RENAME', KEYS[5], KEYS[3])
    end
    redis.call('RPUSH', KEYS[3], ARGV[3])
    redis.call('PEXPIRE', KEYS[3], ARGV[5])
end
for index, key in ipairs(KEYS) do
    if index ~= 3 and index ~= 4 then
        redis.call('UNLINK', key)
    end
end
if ARGV[4] ~= '' then
    redis.call('SET', KEYS[4], ARGV[4], 'PX', ARGV[6])
end
return {'ok', uid}
