"""A folder of emoji: a small set of colour pictures that any Debian machine can make.

    apt-get install fonts-noto-color-emoji unicode-data
    python benchmarks/emoji.py --out runs/emoji
    python train_drift.py --dataset_name folder:runs/emoji

Some 1,870 glyphs of Google's font become PNG files, in a folder for each of Unicode's ten groups:
smileys, flags, food, ... Their backgrounds are transparent, the classes of unequal size, from 9 to
363 pictures: what people's own folders are like. Skin tones are left out, since they would repeat
the same shapes, and so is what the font cannot draw as one glyph.

With --held_out 0.1 the folders lie in train/ and test/, and a tenth of each class in test/.
"""

import argparse
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
TABLE = "/usr/share/unicode/emoji/emoji-test.txt"
FONT_SIZE = 109  # the one size that the font stores, in pixels
GLYPH = (136, 128)  # width and height of its pictures
SKIN_TONES = range(0x1F3FB, 0x1F400)
SEED = 0


class Emoji(NamedTuple):
    """One line of Unicode's table."""

    group: str
    text: str
    name: str


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--size", type=int, default=32, help="side of the pictures; 0: 136x128")
    parser.add_argument("--held_out", type=float, default=0.0, help="share of test pictures")
    parser.add_argument("--font", default=FONT, help="a font with colour bitmaps")
    parser.add_argument("--table", default=TABLE, help="Unicode's emoji-test.txt")
    given = parser.parse_args()
    check(given)
    pictures = draw_all(read_table(given.table), given.font, given.size)
    write(pictures, pathlib.Path(given.out), given.held_out)
    for class_name, files in pictures.items():
        print(f"{len(files):5} {class_name}")
    print(f"{sum(map(len, pictures.values())):5} in {given.out}")


def check(given: argparse.Namespace) -> None:
    """Ends the program with one line for what is missing or makes no sense."""
    for path, package in ((given.font, "fonts-noto-color-emoji"), (given.table, "unicode-data")):
        if not pathlib.Path(path).is_file():
            sys.exit(f"error: {path} is not there; apt-get install {package}")
    if not features.check("raqm"):
        sys.exit(
            "error: this Pillow is built without raqm, which joins code points to one glyph; "
            "install the one of PyPI"
        )
    if given.size < 0 or not 0 <= given.held_out < 1:
        sys.exit("error: --size is a number of pixels, --held_out a share in [0, 1)")
    if pathlib.Path(given.out).exists() and any(pathlib.Path(given.out).iterdir()):
        sys.exit(f"error: --out {given.out} is not empty; give a new folder")


Pictures = dict[str, dict[str, Image.Image]]  # by the names of their class and their file


def draw_all(emoji_of_table: Iterable[Emoji], font_file: str, size: int) -> Pictures:
    """Returns the pictures of all emoji that the font has, at size x size pixels, or as stored."""
    font = ImageFont.truetype(font_file, FONT_SIZE)
    width = font.getlength("\N{GRINNING FACE}")
    pictures: Pictures = {}
    for emoji in emoji_of_table:
        # What the font has no glyph for is drawn as several side by side, or as nothing.
        picture = draw(emoji.text, font)
        if font.getlength(emoji.text) != width or picture.getbbox() is None:
            continue
        if size:
            picture = to_square(picture, size)
        files = pictures.setdefault(as_file_name(emoji.group), {})
        files[as_file_name(emoji.name)] = picture
    return pictures


def write(pictures: Pictures, out: pathlib.Path, held_out: float) -> None:
    """Writes PNG files, in folders for the classes; held_out: the share of each that is in test/.

    The same pictures are held out each time.
    """
    random = np.random.default_rng(SEED)
    for class_name, files in pictures.items():
        order = random.permutation(sorted(files))
        of_test = set(order[: round(held_out * len(files))])
        for name, picture in files.items():
            folder = out / class_name
            if held_out:
                split = "test" if name in of_test else "train"
                folder = out / split / class_name
            folder.mkdir(parents=True, exist_ok=True)
            picture.save(folder / f"{name}.png")


def read_table(path: str) -> Iterator[Emoji]:
    """Yields the emoji of Unicode's table, in its order, without those of a skin tone."""
    group = ""
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ")
        fields = re.fullmatch(r"([0-9A-F ]+); (\S+) +# \S+ E[0-9.]+ (.+)", line)
        if not fields or fields[2] not in ("fully-qualified", "component"):
            continue
        points = [int(point, 16) for point in fields[1].split()]
        has_tone = any(point in SKIN_TONES for point in points)
        if not has_tone or fields[2] == "component":
            yield Emoji(group, "".join(map(chr, points)), fields[3])


def draw(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Returns the glyph as the font stores it, on a transparent ground."""
    picture = Image.new("RGBA", GLYPH)
    ImageDraw.Draw(picture).text((0, 0), text, font=font, embedded_color=True, anchor="lt")
    return picture


def to_square(picture: Image.Image, size: int) -> Image.Image:
    """Returns the picture with a margin above and below that makes it a square of that side."""
    side = max(picture.size)
    square = Image.new("RGBA", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square.resize((size, size), Image.Resampling.LANCZOS)


def as_file_name(text: str) -> str:
    """Returns "flag_cote_d_ivoire" for "flag: Cote d'Ivoire"."""
    return re.sub(r"\W+", "_", text).strip("_").lower()


if __name__ == "__main__":
    main()
