-- An emulator of nginx Plus' zone_sync, which is not to be had freely: a shared dictionary whose changes a timer tells
-- to the peers at an interval. As there: eventual; of two writers the later stamp wins; a record larger than one buffer
-- is never told; a deletion is not told.
--
-- An entry is "stamp visible value": the stamp of its writer, and the time from which it counts (tests set one ahead).
local ffi = require "ffi"
ffi.cdef [[
    typedef struct { long seconds; long nanoseconds; } standin_time;
    int clock_gettime(int clock, standin_time *time);
]]
local buffer = 4096

local M = {}

-- Unix seconds with microseconds: ngx.now() has milliseconds and stands still within a request.
function M.now()
    local time = ffi.new("standin_time")
    ffi.C.clock_gettime(0, time)
    return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
end

local function parts(entry)
    local stamp, visible, value = entry:match("^(%S+) (%S+) (.*)$")
    return tonumber(stamp), tonumber(visible), value
end

function M.get(key)
    local entry = ngx.shared.zone:get(key)
    if not entry then return nil end
    local _, visible, value = parts(entry)
    if M.now() < visible then return nil end
    return value
end

local function set(key, stamp, visible, value)
    local old = ngx.shared.zone:get(key)
    if old and parts(old) >= stamp then return end
    ngx.shared.zone:set(key, string.format("%.6f %.6f %s", stamp, visible, value))
end

-- A write through this instance.
function M.put(key, value, visible)
    local now = M.now()
    set(key, now, visible or 0, value)
    if not visible and #key + #value <= buffer then
        ngx.shared.changes:lpush("changes", string.format("%.6f %s %s", now, key, value))
    end
end

-- What a peer tells.
function M.take(body)
    if M.deaf then return end
    for line in body:gmatch("[^\n]+") do
        local stamp, key, value = line:match("^(%S+) (%S+) (.*)$")
        if stamp then set(key, tonumber(stamp), 0, value) end
    end
end

local function tell(address, body)
    local peer = ngx.socket.tcp()
    peer:settimeouts(200, 500, 500)
    if not peer:connect(address, M.sync_port) then return end
    peer:send("POST /sync HTTP/1.1\r\nHost: peer\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body)
    local line = peer:receive("*l")
    while line and line ~= "" do line = peer:receive("*l") end
    if line then peer:setkeepalive(60000, 200) end
end

local function round(premature)
    if premature or M.mute then return end
    local lines = {}
    while true do
        local line = ngx.shared.changes:rpop("changes")
        if not line then break end
        lines[#lines + 1] = line
    end
    if #lines > 0 then
        local body = table.concat(lines, "\n")
        for _, address in ipairs(M.peers()) do
            if address ~= M.address then tell(address, body) end
        end
    end
end

function M.peers()
    local found = {}
    for address in io.lines(M.peers_file) do found[#found + 1] = address end
    return found
end

-- In each worker: where this instance is, and how it misbehaves.
function M.start(options)
    for name, value in pairs(options) do M[name] = value end
    assert(ngx.timer.every(M.interval, round))
end

-- The endpoint that only a valid token gets past, as auth_jwt has it.
function M.check()
    if M.delay > 0 then ngx.sleep(M.delay) end
    local token = ngx.var.cookie_auth_token
    if not token or not M.get(token) then return ngx.exit(401) end
    ngx.shared.zone:add("first " .. token, string.format("0 0 %.6f", M.now()), 3600)
    ngx.header["Content-Type"] = "text/plain"
    ngx.say("ok")
end

function M.body()
    ngx.req.read_body()
    local body = ngx.req.get_body_data()
    if body then return body end
    local name = ngx.req.get_body_file()
    if not name then return "" end
    local file = assert(io.open(name, "rb"))
    body = file:read("*a")
    file:close()
    return body
end

-- /keys/<key>: what nginx Plus' API does for a keyval zone, as far as a canary needs it.
function M.keys()
    local key = ngx.var.uri:match("^/keys/(.+)$")
    local method = ngx.req.get_method()
    if method == "PUT" then
        M.put(key, M.body(), tonumber(ngx.var.arg_visible))
        ngx.status = 201
    elseif method == "DELETE" then
        ngx.shared.zone:delete(key)
        ngx.status = 204
    elseif method == "GET" then
        local value = M.get(key)
        if not value then return ngx.exit(404) end
        ngx.print(value)
    else
        return ngx.exit(405)
    end
end

local function connected(address)
    local peer = ngx.socket.tcp()
    peer:settimeouts(200, 200, 200)
    local found = peer:connect(address, M.sync_port)
    if found then peer:close() end
    return found ~= nil
end

local function refuse(status, text, code)
    ngx.status = status
    ngx.print(string.format('{"error":{"status":%d,"text":"%s","code":"%s"},"request_id":"%s",'
        .. '"href":"https://nginx.org/en/docs/http/ngx_http_api_module.html"}', status, text, code, ngx.var.request_id))
end

-- /api/9/stream/zone_sync of ngx_http_api_module, with the counters of this store. Other paths, versions and methods
-- are refused as there. A peer counts as online if it accepts connections.
function M.api()
    ngx.header["Content-Type"] = "application/json"
    local version, path = ngx.var.uri:match("^/api/(%d+)/(.*)$")
    version = tonumber(version)
    if not version or version < 3 or version > 9 then return refuse(404, "unknown version", "UnknownVersion") end
    if path ~= "stream/zone_sync" and path ~= "stream/zone_sync/" then
        return refuse(404, "path not found", "PathNotFound")
    end
    if ngx.req.get_method() ~= "GET" then return refuse(405, "method disabled", "MethodDisabled") end
    local online = 0
    for _, address in ipairs(M.peers()) do
        if address ~= M.address and connected(address) then online = online + 1 end
    end
    local pending = ngx.shared.changes:llen("changes") or 0
    local total = #ngx.shared.zone:get_keys(0)
    ngx.print(string.format('{"zones":{"zone":{"records_pending":%d,"records_total":%d}},"status":{"bytes_in":0,'
        .. '"msgs_in":0,"msgs_out":0,"bytes_out":0,"nodes_online":%d}}', pending, total, online))
end

return M
