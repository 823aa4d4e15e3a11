-- What the pages need of pandoc, in Quarto's site and in the plain one (tests/pages.py).

local html = FORMAT:match 'html'  -- not for the README.md that nbdev-readme writes

-- A plot drawn in the ink of the page (currentColor) stands in the page itself: as an image it would be black on dark, too.
function Image(image)
  if not html or not image.src:match '%.svg$' then return nil end
  local file = io.open(image.src, 'r')
  if not file then return nil end
  local svg = file:read 'a'
  file:close()
  if not svg:find('currentColor', 1, true) then return nil end
  -- On a phone a plot keeps the size at which its words can be read, and is scrolled where that is wider than the page.
  local width = tonumber(svg:match '<svg[^>]* width="([%d.]+)pt"')
  local least = width and string.format('<svg class="plot" style="min-width: %dpx" ', math.floor(.95 * width)) or '<svg class="plot" '
  return pandoc.RawInline('html', (svg:match '<svg.*</svg>':gsub('^<svg ', least)))
end

-- Signatures name a type as one imports it, not by the module that it came from. Output in columns is told from other output.
function CodeBlock(block)
  if not html then return nil end
  if block.classes:includes 'python' then
    block.text = block.text:gsub('__main__%.', ''):gsub('llm2llm%.[%l%d_%.]+%.(%u)', '%1'):gsub(':NoneType=None', '=None')
  elseif #block.classes == 0 then
    local columns, widest = 0, 0
    for line in block.text:gmatch '[^\n]+' do
      if line:find '%S  +%S' then columns, widest = columns + 1, math.max(widest, utf8.len(line) or #line) end
    end
    if columns > 1 then block.classes = {widest > 92 and 'wide' or 'aligned'} end
  end
  return block
end

-- A dunder method without a docstring inherits one that says nothing.
function Para(para)
  if html and #para.content == 1 and pandoc.utils.stringify(para):find '^Return %l+%(self%)%.$' then return {} end
end

-- Columns as wide as what they hold, not as the dashes under their names; a short first cell or number is not broken, a long one not squeezed.
function Table(table)
  if not html then return nil end
  for i, column in ipairs(table.colspecs) do table.colspecs[i] = {column[1]} end
  for _, body in ipairs(table.bodies) do
    for _, row in ipairs(body.body) do
      for i, cell in ipairs(row.cells) do
        local text = pandoc.utils.stringify(cell.contents)
        local n = utf8.len(text)
        local class = (i == 1 or text:find '^[+-]?%d') and n <= 24 and 'short' or n > 50 and 'long'
        if class then cell.contents = {pandoc.Div(cell.contents, {class = class})} end  -- Quarto drops classes of cells beside a link
      end
    end
  end
  return table
end

-- Tables that pandas writes (`html-table-processing: none` leaves them to this): columns of words begin at the left.
function RawBlock(block)
  if not html or block.format ~= 'html' or not block.text:find('class="dataframe"', 1, true) then return nil end
  local words, width, classes = {}, 0, {'words short', 'words', 'words long'}
  local function number(cell)
    return cell:find '^%s*[%.…]*%s*$' or cell == 'NaN' or cell == 'None' or cell == '&lt;NA&gt;'
      or cell:find '^[+%-(]?[%d.]' and not cell:find '[=;:]' and not cell:gsub(' to ', ''):gsub(' of ', ''):find '%a%a'
  end
  for row in block.text:gmatch '<tr.->(.-)</tr>' do
    local i = 0
    for cell in row:gmatch '<td>(.-)</td>' do
      i = i + 1
      local kind = #cell > 40 and 3 or (#cell > 24 or cell:find ' ') and 2 or 1
      if kind == 3 or not number(cell) then words[i] = math.max(words[i] or 0, kind) end
    end
    width = math.max(width, i)
  end
  block.text = block.text:gsub('(<tr.->)(.-)(</tr>)', function(open, row, close)
    local i, _, names = 0, row:gsub('<th>', '<th>')
    if row:find '<td>' then
      row = row:gsub('<td>', function() i = i + 1; return words[i] and '<td class="' .. classes[words[i]] .. '">' or '<td>' end)
    elseif not row:find 'colspan' then
      i = width - names
      row = row:gsub('<th>', function() i = i + 1; return words[i] and '<th class="words">' or '<th>' end)
    end
    return open .. row .. close
  end)
  return block
end

-- CHANGELOG.md and CONTRIBUTING.md name the notebooks from the repository's top; the site's top is nbs/.
function Link(link)
  link.target = link.target:gsub('^nbs/', '')
  return link
end
