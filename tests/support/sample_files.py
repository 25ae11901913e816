"""Small real files of every format, made by libraries that the product does not use."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import docx
import fpdf
import openpyxl
from fpdf.enums import AccessPermission, EncryptionMethod
from PIL import Image, ImageDraw, ImageFont

DAYS = [["Country", "Days"], ["Germany", "30"], ["France", "25"], ["Japan", "10"]]
LEAVE = "Every employee has twenty days of paid leave per year."
ASK = "Ask your manager two weeks before the first day of leave."


def write_pdf(
    path: Path,
    pages: Sequence[str] = (LEAVE,),
    *,
    title: str | None = None,
    table: Sequence[Sequence[str]] = (),
    picture: Image.Image | None = None,
    password: str | None = None,
) -> Path:
    """A PDF with one page per text; the table and the picture are on the last page."""
    pdf = fpdf.FPDF()
    pdf.set_font("Helvetica", size=12)
    if title is not None:
        pdf.set_title(title)
    for text in pages:
        pdf.add_page()
        if text:
            pdf.multi_cell(0, 8, text)
    if table:
        pdf.ln(10)
        with pdf.table() as rows:
            for row in table:
                cells = rows.row()
                for cell in row:
                    cells.cell(cell)
    if picture is not None:
        pdf.ln(10)
        pdf.image(picture, w=150)
    if password is not None:
        pdf.set_encryption(
            "owner", password, encryption_method=EncryptionMethod.AES_128, permissions=AccessPermission.none()
        )
    path.write_bytes(bytes(pdf.output()))
    return path


def write_word(path: Path, *, title: str | None = None, picture: Image.Image | None = None) -> Path:
    """A Word file with two headings, a list, a table and maybe a picture, in this order."""
    document = docx.Document()
    document.add_heading("Leave policy", 1)
    document.add_paragraph(LEAVE)
    document.add_heading("How to ask", 2)
    document.add_paragraph(ASK, style="List Bullet")
    document.add_paragraph("Fill in the form.", style="List Bullet")
    table = document.add_table(rows=0, cols=len(DAYS[0]))
    for row in DAYS:
        cells = table.add_row().cells
        for cell, text in zip(cells, row, strict=True):
            cell.text = text
    if picture is not None:
        document.add_picture(io.BytesIO(png(picture)))
    document.add_paragraph("After the table.")
    document.core_properties.title = title or ""
    document.save(str(path))
    return path


def write_excel(path: Path, sheets: dict[str, Sequence[Sequence[object]]], hidden: Sequence[str] = ()) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
        sheet.sheet_state = "hidden" if name in hidden else "visible"
    book.save(path)
    return path


def picture_of(*lines: str, size: tuple[int, int] = (800, 200)) -> Image.Image:
    """A white image with lines of black text, as a scanner would make it."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((20, 20 + 60 * number), line, fill="black", font=ImageFont.load_default(32))
    return image


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def zip_bomb(path: Path, member: str, size_bytes: int) -> Path:
    """An archive with one member of zeros, a thousandth of its size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(member, "w") as stream:
        for _ in range(size_bytes // 1_048_576):
            stream.write(bytes(1_048_576))
    return path
