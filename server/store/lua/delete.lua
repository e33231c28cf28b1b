-- Removes an experiment and all it has, when it has not changed.
--
-- KEYS[1]  hash   head; read: generation, uid
-- KEYS[2]  hash   bucket -> number of ids; its fields must be the buckets that are given
-- KEYS[3]  list   past: audit records of the last deleted experiment of the name; TTL ARGV[5]
-- KEYS[4]  string deletion: digest of the request id that deleted it; TTL ARGV[6]
-- KEYS[5]  list   audit records, oldest first
-- KEYS[6]  hash   the same as KEYS[2] of the trailing ledger
-- KEYS[7..] every other key of the experiment, any types; the lists of the buckets last
-- ARGV[1]  expected generation; "0" for one whose head is gone, of another type, or has no generation
-- ARGV[2]  last moment for it, Unix ms; after it version.lua may have announced it already
-- ARGV[3]  last audit record, document, or "": then the records go with the experiment
-- ARGV[4]  digest of the request id, or ""
-- ARGV[5]  how long past records are kept, ms
-- ARGV[6]  how long request ids are remembered, ms
-- ARGV[7]  how many names of buckets follow that are the ledger's; the rest are the trailing ledger's
-- ARGV[8..] those names
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
local function lists(key, first, last)
    if redis.call('TYPE', key)['ok'] ~= 'hash' then
        return true
    end
    for index = first, last do
        if redis.call('HEXISTS', key, ARGV[index]) == 0 then
            return false
        end
    end
    return redis.call('HLEN', key) == last - first + 1
end
local own = 7 + tonumber(ARGV[7])
if not lists(KEYS[2], 8, own) or not lists(KEYS[6], own + 1, #ARGV) then
    return {'buckets'}
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
