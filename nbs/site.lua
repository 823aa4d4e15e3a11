-- What the pages need of pandoc, in Quarto's site and in the plain one (tests/pages.py).

-- A plot drawn in the ink of the page (currentColor) stands in the page itself: as an image it would be black on dark, too.
function Image(image)
  if not FORMAT:match 'html' or not image.src:match '%.svg$' then return nil end
  local file = io.open(image.src, 'r')
  if not file then return nil end
  local svg = file:read 'a'
  file:close()
  if svg:find('currentColor', 1, true) then return pandoc.RawInline('html', svg:match '<svg.*</svg>') end
end

-- CHANGELOG.md and CONTRIBUTING.md name the notebooks from the repository's top; the site's top is nbs/.
function Link(link)
  link.target = link.target:gsub('^nbs/', '')
  return link
end
