-- One compare-and-set of an experiment, all or nothing; also creates it.
--
-- KEYS[1]  hash   head: experiment, allocation (documents), generation, uid, allocation_number, audit_sequence,
--                 audit_hash, fence, sequence, sizes; no TTL
-- KEYS[2]  zset   allocations that are no periods yet, by number; no TTL
-- KEYS[3]  list   audit records, oldest first; no TTL
-- KEYS[4]  hash   digest of a request id -> its outcome; a day after its last write
-- KEYS[5]  zset   digest of a request id by time in ms; a day after its last write
-- KEYS[6]  hash   lease: owner, token; expires by itself
-- KEYS[7]  string status; create only, like all keys after it: what an experiment of that name may have left behind
-- KEYS[8]  stream log; made here, empty, so that appending to what was deleted brings nothing back
-- KEYS[9..] the rest of the ledger, any types
-- ARGV[1]  expected generation, "0" creates
-- ARGV[2]  uid of the experiment
-- ARGV[3]  experiment, document
-- ARGV[4]  allocation, document
-- ARGV[5]  number of the allocation
-- ARGV[6]  audit record, document, or ""
-- ARGV[7]  its sequence, or ""
-- ARGV[8]  its hash, or ""
-- ARGV[9]  owner of the lease that must be held
-- ARGV[10] its token, or "" when no lease is needed
-- ARGV[11] digest of the request id, or ""
-- ARGV[12] outcome to remember for it: the revision, or the revision, a space and the answer's bytes
-- ARGV[13] last moment for the commit, Unix ms; after it version.lua may have announced it already
-- ARGV[14] how long request ids are remembered, ms
-- Returns {"ok", new generation}, or why nothing changed: {"exists"}, {"gone"}, {"generation", stored},
-- {"uid", stored}, {"allocation", stored number}, {"lease"}, {"audit", stored sequence}, {"late"}. All decimal text.
local creates = ARGV[1] == '0'
local kinds = {'hash', 'zset', 'list', 'hash', 'zset', 'hash'}
for index, kind in ipairs(kinds) do
    local found = redis.call('TYPE', KEYS[index])['ok']
    if found ~= kind and found ~= 'none' and not creates then
        return redis.error_reply('WRONGTYPE ' .. KEYS[index] .. ' is a ' .. found .. ', not a ' .. kind)
    end
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if now > tonumber(ARGV[13]) then
    return {'late'}
end
local audit_sequence = '0'
if creates then
    -- A head without documents is what some hand left; one of another type hides we do not know what.
    local kind = redis.call('TYPE', KEYS[1])['ok']
    local stored = kind == 'hash' and redis.call('HMGET', KEYS[1], 'experiment', 'allocation', 'generation') or {}
    if (kind ~= 'hash' and kind ~= 'none') or stored[1] or stored[2] or stored[3] then
        return {'exists'}
    end
else
    local stored = redis.call('HMGET', KEYS[1], 'generation', 'uid', 'audit_sequence', 'allocation_number')
    if not stored[1] then
        return {'gone'}
    end
    if stored[1] ~= ARGV[1] then
        return {'generation', stored[1]}
    end
    if stored[2] ~= ARGV[2] then
        return {'uid', stored[2] or ''}
    end
    if tonumber(stored[4] or '0') > tonumber(ARGV[5]) then
        return {'allocation', stored[4]}
    end
    audit_sequence = stored[3] or '0'
    if ARGV[10] ~= '' then
        local lease = redis.call('HMGET', KEYS[6], 'owner', 'token')
        if lease[1] ~= ARGV[9] or lease[2] ~= ARGV[10] then
            return {'lease'}
        end
    end
end
if creates and ARGV[10] ~= '' then
    return {'lease'}
end
if ARGV[6] ~= '' then
    local number = tonumber(audit_sequence)
    if not number or string.format('%.0f', number + 1) ~= ARGV[7] then
        return {'audit', audit_sequence}
    end
end
local generation = string.format('%.0f', tonumber(ARGV[1]) + 1)

-- From here on nothing can fail. A removal first: see prepare.lua.
if creates then
    for index = 1, #KEYS do
        redis.call('DEL', KEYS[index])
    end
    redis.call('XADD', KEYS[8], '0-1', '', '')
    redis.call('XDEL', KEYS[8], '0-1')
else
    local old = redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', string.format('%.0f', now - tonumber(ARGV[14])), 'LIMIT', 0, 100)
    redis.call('ZREM', KEYS[5], '', unpack(old))
    redis.call('HDEL', KEYS[4], '', unpack(old))
end
if redis.call('HGET', KEYS[1], 'allocation_number') ~= ARGV[5] then
    redis.call('ZADD', KEYS[2], ARGV[5], ARGV[4])
end
redis.call('HSET', KEYS[1], 'experiment', ARGV[3], 'allocation', ARGV[4], 'generation', generation, 'uid', ARGV[2],
    'allocation_number', ARGV[5])
if ARGV[6] ~= '' then
    redis.call('RPUSH', KEYS[3], ARGV[6])
    redis.call('HSET', KEYS[1], 'audit_sequence', ARGV[7], 'audit_hash', ARGV[8])
end
if ARGV[11] ~= '' then
    redis.call('HSET', KEYS[4], ARGV[11], ARGV[12])
    redis.call('ZADD', KEYS[5], string.format('%.0f', now), ARGV[11])
    redis.call('PEXPIRE', KEYS[4], ARGV[14])
    redis.call('PEXPIRE', KEYS[5], ARGV[14])
end
return {'ok', generation}
