-- POSTs one body until enough tasks were accepted, then says so and sends no more.
-- Arguments: the path, the body, how many tasks one body has, and how many are wanted.

local made, each, wanted
local accepted, refused, over = 0, 0, false

function init(arguments)
   local path, body = arguments[1], arguments[2]
   each, wanted = tonumber(arguments[3]), tonumber(arguments[4])
   local list = {}
   for number = 1, each do
      list[number] = body
   end
   if each > 1 then
      body = "[" .. table.concat(list, ",") .. "]"
   end
   made = wrk.format("POST", path, { ["Content-Type"] = "application/json" }, body)
end

function request()
   return made
end

function response(status)
   if status == 202 then
      accepted = accepted + each
   else
      refused = refused + 1
   end
   if not over and (accepted >= wanted or refused > 0) then
      over = true
      io.write(string.format('{"accepted": %d, "refused": %d, "status": %d}\n', accepted, refused, status))
      io.flush()
      wrk.thread:stop()
   end
end
