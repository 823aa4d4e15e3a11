-- Every page in one process, whose start takes longer than a page does: `pandoc lua pages.lua FILTER TEMPLATE`.
-- It reads JSON, {reader, abbreviations, pages: a list of {folder, markdown}}, and writes the list of their HTML as JSON.

local filter_file, template_file = arg[1], arg[2]

local function content(path)
  local file <close> = assert(io.open(path, 'r'))
  return file:read 'a'
end

local named = setmetatable({FORMAT = 'html5'}, {__index = _G})  -- the filter's functions, which see all that is global
assert(loadfile(filter_file, 't', named))()
local filter = {}
for name, value in pairs(named) do if type(value) == 'function' then filter[name] = value end end

local how = pandoc.WriterOptions {
  template = pandoc.template.compile(content(template_file)),
  table_of_contents = true,
  toc_depth = 3,
  html_math_method = 'mathml',
  wrap_text = 'none',
}

local given = pandoc.json.decode(io.read 'a')
local short = {}  -- a set: a list would have its numbers count as abbreviations, too
for _, word in ipairs(given.abbreviations) do short[word] = true end
local read = pandoc.ReaderOptions {abbreviations = short}

local function parts(page)
  return pandoc.system.with_working_directory(page.folder, function()
    return pandoc.write(pandoc.read(page.markdown, given.reader, read):walk(filter), 'html5', how)
  end)
end

io.write(pandoc.json.encode(pandoc.List(given.pages):map(parts)))
