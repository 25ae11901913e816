"""Makes the PDF, Word file, web page, table and image of the demo: `python -m tests.support.demo_documents`."""

import zipfile
from pathlib import Path

from fpdf import FPDF
from PIL import Image, ImageDraw, ImageFont

from operations.demo.samples import FOLDER

_BREAD = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Bread with sourdough</title></head>
<body>
<nav><a href="/">Home</a> <a href="/recipes">All recipes</a></nav>
<main>
<h1>Bread with sourdough</h1>
<p>Mix 500 g of flour with 350 g of water and 10 g of salt. Add the sourdough starter last.</p>
<h2>Rest</h2>
<p>The dough rests for four hours at room temperature, and is folded once an hour. Overnight it stays in the
refrigerator: the cold makes the taste stronger.</p>
<h2>Baking</h2>
<p>Bake the loaf in a closed pot at 250 °C for 25 minutes, then without the lid until the crust is brown.</p>
</main>
<footer>Imprint</footer>
</body>
</html>
"""
_MOUNTAINS = """Mountain,Country,Height in metres,First climbed
Aconcagua,Argentina,6961,1897
Denali,United States,6190,1913
Elbrus,Russia,5642,1874
Kilimanjaro,Tanzania,5895,1889
Mont Blanc,France and Italy,4806,1786
"""
_GLACIERS = (
    (
        "How a glacier moves",
        "Snow that does not melt in summer is pressed into ice by the snow of the next winters. When the ice is "
        "thicker than about thirty metres, it begins to flow: its own weight pushes it down the valley. The middle "
        "moves faster than the edges, which the rock holds back.",
    ),
    (
        "What a glacier leaves behind",
        "A glacier carries stones of every size. Where it melts, they stay as a wall of rubble, the moraine. Lakes "
        "often lie behind an old moraine.",
    ),
)
_BEES = (
    ("Heading1", "The year of the bees"),
    ("Heading2", "Summer"),
    (None, "In June a colony has up to fifty thousand bees. They collect nectar and dry it to honey."),
    ("Heading2", "Winter"),
    (
        None,
        "Bees do not sleep in winter. They form a tight ball around their queen, tremble with their flight muscles, "
        "and so keep her warm. They change places, so that no bee stays on the cold outside for long.",
    ),
)
_FERRY = (
    "Ferry to the island",
    "The ferry leaves pier 4 at 7:40 and at 16:15.",
    "Bicycles are carried free of charge.",
    "There is no crossing during a storm.",
)
_TYPES = "application/vnd.openxmlformats-officedocument.wordprocessingml"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def main() -> None:
    (FOLDER / "bread.html").write_text(_BREAD)
    (FOLDER / "mountains.csv").write_text(_MOUNTAINS)
    _make_pdf(FOLDER / "glaciers.pdf")
    _make_word(FOLDER / "bees.docx")
    _make_image(FOLDER / "ferry.png")


def _make_pdf(path: Path) -> None:
    pdf = FPDF(format=(148, 210))
    pdf.set_title("Glaciers")
    for heading, text in _GLACIERS:
        pdf.add_page()
        pdf.set_font("Helvetica", "B", 16)
        pdf.multi_cell(0, 10, heading, new_x="LMARGIN", new_y="NEXT")
        pdf.set_font("Helvetica", "", 11)
        pdf.multi_cell(0, 6, text)
    pdf.output(str(path))


def _make_word(path: Path) -> None:
    paragraphs = "".join(f"<w:p>{_style(style)}<w:r><w:t>{text}</w:t></w:r></w:p>" for style, text in _BEES)
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override '
        f'PartName="/word/document.xml" ContentType="{_TYPES}.document.main+xml"/><Override '
        f'PartName="/word/styles.xml" ContentType="{_TYPES}.styles+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="rId1" '
        f'Type="{_RELATIONS}/officeDocument" Target="word/document.xml"/></Relationships>',
        "word/_rels/document.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="rId1" '
        f'Type="{_RELATIONS}/styles" Target="styles.xml"/></Relationships>',
        "word/styles.xml": f'<w:styles xmlns:w="{_WORD}">'
        + "".join(
            f'<w:style w:type="paragraph" w:styleId="Heading{level}"><w:name w:val="heading {level}"/></w:style>'
            for level in (1, 2)
        )
        + "</w:styles>",
        "word/document.xml": f'<w:document xmlns:w="{_WORD}"><w:body>{paragraphs}</w:body></w:document>',
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, f'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n{content}')


def _style(name: str | None) -> str:
    return "" if name is None else f'<w:pPr><w:pStyle w:val="{name}"/></w:pPr>'


def _make_image(path: Path) -> None:
    picture = Image.new("L", (900, 60 + 60 * len(_FERRY)), "white")
    drawing, font = ImageDraw.Draw(picture), ImageFont.load_default(36)
    for number, line in enumerate(_FERRY):
        drawing.text((40, 30 + 60 * number), line, "black", font)
    picture.save(path, optimize=True)


if __name__ == "__main__":
    main()
