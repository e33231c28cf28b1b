-- How many entries of a log come after an id, counted where they are so that no payload travels.
--
-- KEYS[1] stream log
-- ARGV[1] the id
-- ARGV[2] most entries to count in this call
-- Returns {how many, id of the last one counted}.
local found = redis.call('TYPE', KEYS[1])['ok']
if found ~= 'stream' then
    if found ~= 'none' then
        return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' is a ' .. found .. ', not a stream')
    end
    return {0, ARGV[1]}
end
local entries = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
if #entries == 0 then
    return {0, ARGV[1]}
end
return {#entries, entries[#entries][1]}
