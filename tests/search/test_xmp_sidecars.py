# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""XMP sidecars: what other programs read in them, and that what others wrote stays.

They are read back with Python's DOM, which shares no code with the writer; benchmarks/bench_tagging.py does the same
with exiftool.
"""

import os
import stat
from pathlib import Path
from xml.dom import minidom

import pytest

from clip_hf.search import add_tags, read_tags, sidecar_path
from clip_hf.search.xmp_sidecars import check_sidecars


RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
LISTS = {
    "dc": ("http://purl.org/dc/elements/1.1/", "subject"),
    "lr": ("http://ns.adobe.com/lightroom/1.0/", "hierarchicalSubject"),
    "digiKam": ("http://www.digikam.org/ns/1.0/", "TagsList"),
}
HOSTILE = [
    "<rdf:li>",
    "a & b",
    "]]>",
    "\"quoted\" 'twice'",
    "<!-- no comment -->",
    "&lt;",
    "Žluťoučký 🐈",
    "%s {}",
]
OTHERS = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Another program 1.0"><!-- a comment -->
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="uuid:1 &quot;x&quot;" xmlns:z="http://example.org/z/" z:note="keep &#x1F408; > this"
    xmp:Rating="4" xmlns:xmp="http://ns.adobe.com/xap/1.0/">
   {subject}
   <z:history><rdf:Seq><rdf:li z:step="1"/><rdf:li>dc:subject</rdf:li></rdf:Seq></z:history>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""
SUBJECT = '<dc:subject xmlns:dc="http://purl.org/dc/elements/1.1/">{}</dc:subject>'


def tags_of(path: Path, prefix: str = "dc") -> list[str]:
    """The items of a list of tags, by another reader."""
    namespace, name = LISTS[prefix]
    document = minidom.parse(str(path))
    properties = document.getElementsByTagNameNS(namespace, name)
    assert len(properties) <= 1
    items = [item for each in properties for item in each.getElementsByTagNameNS(RDF, "li")]
    assert all(item.parentNode.localName in ("Bag", "Seq") for item in items)
    return ["".join(child.data for child in item.childNodes) for item in items]


def write_others(folder: Path, subject: str = "") -> Path:
    path = folder / "a.jpg.xmp"
    path.write_text(OTHERS.replace("{subject}", subject), encoding="utf-8")
    return path


def test_a_new_sidecar_has_the_tags_in_standard_places(tmp_path):
    path = add_tags(tmp_path / "a.jpg", ["dog", "beach", "dog"])
    assert path == tmp_path / "a.jpg.xmp" and os.listdir(tmp_path) == ["a.jpg.xmp"]
    assert tags_of(path) == tags_of(path, "lr") == read_tags(path) == ["dog", "beach"]
    text = path.read_text(encoding="utf-8")
    assert text.startswith('<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>') and 'rdf:about=""' in text
    assert "digiKam" not in text
    element = minidom.parse(str(path)).getElementsByTagNameNS(RDF, "Description")[0]
    assert element.parentNode.localName == "RDF" and element.parentNode.parentNode.namespaceURI == "adobe:ns:meta/"


def test_hostile_labels_stay_what_they_are(tmp_path):
    path = add_tags(tmp_path / "a.jpg", HOSTILE)
    assert tags_of(path) == tags_of(path, "lr") == HOSTILE
    assert add_tags(tmp_path / "a.jpg", ["|", "x|y"]) == path
    assert tags_of(path)[-2:] == ["|", "x|y"]
    add_tags(tmp_path / "b.jpg", ["first"])
    path_of_b = add_tags(tmp_path / "b.jpg", HOSTILE)
    assert tags_of(path_of_b) == tags_of(path_of_b, "lr") == ["first", *HOSTILE]
    assert tags_of(path, "lr")[-2:] == ["/", "x/y"]  # there, | parts the levels of a hierarchy


@pytest.mark.parametrize("label", ["a\nb", "a\tb", "\x00", "\x1b[31m", "\ud800", "\ufffe", "a\x1fb"])
def test_what_xml_cannot_hold_is_refused_before_anything_is_written(label, tmp_path):
    with pytest.raises(ValueError, match="line break or a character that XMP cannot hold"):
        add_tags(tmp_path / "a.jpg", ["dog", label])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["a b & <c>.jpg", "new\nline.jpg", "ž'\"🐈.JPG", os.fsdecode(b"\xff\xfe.jpg"), "no_ending"]
)
def test_hostile_file_names(name, tmp_path):
    path = add_tags(tmp_path / name, ["dog"])
    assert [os.fsencode(each) for each in os.listdir(tmp_path)] == [os.fsencode(f"{name}.xmp")]
    assert read_tags(path) == ["dog"]


def test_styles_of_names(tmp_path):
    assert sidecar_path("x/photo.one.jpg") == Path("x/photo.one.jpg.xmp")
    assert sidecar_path("x/photo.one.jpg", "replace") == Path("x/photo.one.xmp")
    with pytest.raises(ValueError, match="'lightroom'; it must be one of 'append', 'replace'"):
        sidecar_path("a.jpg", "lightroom")
    assert add_tags(tmp_path / "a.jpg", ["dog"], "replace") == tmp_path / "a.xmp"
    check_sidecars(["a.jpg", "a.png", "a.jpg"], ["dog"], "append")
    check_sidecars(["a.jpg", "b/a.png"], ["dog"], "replace")
    with pytest.raises(ValueError, match="'a.jpg' and 'a.png' would share one sidecar"):
        check_sidecars(["a.jpg", "a.png"], ["dog"], "replace")


@pytest.mark.parametrize(
    "subject",
    [
        "",
        SUBJECT.format("<rdf:Bag><rdf:li>tree</rdf:li></rdf:Bag>"),
        SUBJECT.format("<rdf:Seq>\n<rdf:li>\n tree </rdf:li></rdf:Seq>"),
        SUBJECT.format("<rdf:Bag/>"),
        SUBJECT.format("<rdf:Bag rdf:ID='/>' ></rdf:Bag>"),
        SUBJECT.format("<rdf:Bag rdf:ID='/>' />"),
        SUBJECT.replace("dc:", "q:").replace(":dc", ":q").format("<rdf:Bag><rdf:li>tree</rdf:li></rdf:Bag>"),
    ],
)
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b'<?xml version="1.0" encoding="UTF-8"?>'])
def test_all_that_another_program_wrote_stays(subject, start, tmp_path):
    path = write_others(tmp_path, subject)
    path.write_bytes(start + path.read_bytes())
    before = path.read_bytes()
    own = ["tree"] if "tree" in subject else []
    assert add_tags(tmp_path / "a.jpg", ["dog", "cat"]) == path
    assert [tag.strip() for tag in tags_of(path)] == read_tags(path) == [*own, "dog", "cat"]
    # A new list has the tags of the other program, too: what prefers it would lose them.
    assert tags_of(path, "lr") == [*own, "dog", "cat"]
    # Taking the insertions out gives back every byte.
    after, place = path.read_bytes(), 0
    for byte in before.replace(b"<rdf:Bag/>", b"<rdf:Bag>").replace(b"ID='/>' />", b"ID='/>' >"):
        place = after.index(bytes([byte]), place) + 1
    abouts = {
        element.getAttributeNS(RDF, "about")
        for element in minidom.parse(str(path)).getElementsByTagNameNS(RDF, "Description")
    }
    assert abouts == {'uuid:1 "x"'}
    for piece in (b"<!-- a comment -->", b"&#x1F408; > this", b'<rdf:li z:step="1"/>', b'<?xpacket end="w"?>'):
        assert piece in after


def test_tags_that_are_there_are_not_written_again(tmp_path):
    path = add_tags(tmp_path / "a.jpg", ["dog", "cat"])
    os.utime(path, (1, 1))
    assert add_tags(tmp_path / "a.jpg", ["cat", " dog\n", " "]) is None
    assert add_tags(tmp_path / "a.jpg", []) is None
    assert path.stat().st_mtime == 1
    assert add_tags(tmp_path / "b.jpg", []) is None and os.listdir(tmp_path) == ["a.jpg.xmp"]
    assert add_tags(tmp_path / "a.jpg", ["dog", "bird"]) == path
    assert tags_of(path) == tags_of(path, "lr") == ["dog", "cat", "bird"]


def test_lists_of_other_programs(tmp_path):
    hierarchies = (
        '<lr:hierarchicalSubject xmlns:lr="http://ns.adobe.com/lightroom/1.0/"><rdf:Bag><rdf:li>animal|dog</rdf:li>'
        "</rdf:Bag></lr:hierarchicalSubject>"
        '<digiKam:TagsList xmlns:digiKam="http://www.digikam.org/ns/1.0/"><rdf:Seq><rdf:li>place/beach</rdf:li>'
        "</rdf:Seq></digiKam:TagsList>"
    )
    path = write_others(tmp_path, hierarchies)
    add_tags(tmp_path / "a.jpg", ["dog", "beach", "1/2"])
    assert tags_of(path) == ["dog", "beach", "1/2"]
    assert tags_of(path, "lr") == ["animal|dog", "beach", "1/2"]  # a tag is there by its last level
    assert tags_of(path, "digiKam") == ["place/beach", "dog", "1|2"]


DC = 'xmlns:dc="http://purl.org/dc/elements/1.1/"'
OTHER_BAG = SUBJECT.format("<rdf:Bag><rdf:li>of another</rdf:li></rdf:Bag>")
NESTED = [
    f"<z:Pantry><rdf:Bag><rdf:li><rdf:Description>{OTHER_BAG}</rdf:Description></rdf:li></rdf:Bag></z:Pantry>",
    f'<z:Pantry><rdf:Bag><rdf:li rdf:parseType="Resource">{OTHER_BAG}</rdf:li></rdf:Bag></z:Pantry>',
    f'<z:Region rdf:parseType="Resource"><z:Extensions rdf:parseType="Resource">{OTHER_BAG}</z:Extensions></z:Region>',
    f"<z:Region>{OTHER_BAG}</z:Region>",
    f'<z:Pantry><rdf:Description {DC} dc:subject="of another"/></z:Pantry>',
]


@pytest.mark.parametrize("nested", NESTED)
@pytest.mark.parametrize("before, after", [("", ""), ("{}", ""), ("", "{}")])
def test_lists_in_a_structure_are_not_the_pictures(nested, before, after, tmp_path):
    """Such as those of an ingredient or of a region with a face."""
    own = SUBJECT.format("<rdf:Bag><rdf:li>tree</rdf:li></rdf:Bag>")
    path = write_others(tmp_path, before.format(nested) + own + after.format(nested))
    add_tags(tmp_path / "a.jpg", ["dog"])
    assert read_tags(path) == ["tree", "dog"] and tags_of(path, "lr") == ["tree", "dog"]
    text = path.read_text(encoding="utf-8")
    assert "tree</rdf:li><rdf:li>dog</rdf:li>" in text and text.count(nested) == len(before + after) // 2
    # Without a list of its own the picture gets one.
    path.write_text(OTHERS.replace("{subject}", nested), encoding="utf-8")
    assert read_tags(path) == []
    add_tags(tmp_path / "a.jpg", ["of another"])
    assert read_tags(path) == tags_of(path, "lr") == ["of another"]
    assert nested in path.read_text(encoding="utf-8")


def test_a_list_of_another_kind_of_element_is_not_the_pictures(tmp_path):
    path = write_others(tmp_path)
    content = path.read_text(encoding="utf-8")
    thing = f"<z:Thing xmlns:z='http://example.org/z/'>{OTHER_BAG}</z:Thing>"
    outside = f"<z:Thing xmlns:z='http://example.org/z/'>{OTHER_BAG}</z:Thing>".replace("rdf:", "z:")
    path.write_text(content.replace("</rdf:RDF>", f"{thing}</rdf:RDF>{outside}"), encoding="utf-8")
    assert read_tags(path) == []


@pytest.mark.parametrize(
    "items, expected",
    [
        ("<rdf:li rdf:parseType='Resource'><rdf:value>tree</rdf:value><z:by>Ann</z:by></rdf:li>", ["tree"]),
        ("<rdf:li><rdf:Description><rdf:value>tree</rdf:value></rdf:Description></rdf:li>", ["tree"]),
        ("<rdf:li rdf:value='tree'/><rdf:li/><rdf:li> </rdf:li>", ["tree"]),
        ("<rdf:li><z:x><rdf:Bag><rdf:li>of another</rdf:li></rdf:Bag></z:x></rdf:li><rdf:li>tree</rdf:li>", ["tree"]),
        ("<z:li>of another</z:li><rdf:li><![CDATA[tr]]>e<!-- x -->e</rdf:li>", ["tree"]),
    ],
)
def test_items_of_all_forms(items, expected, tmp_path):
    path = write_others(tmp_path, SUBJECT.format(f"<rdf:Bag>{items}</rdf:Bag>"))
    assert read_tags(path) == expected
    add_tags(tmp_path / "a.jpg", ["tree", "dog"])
    assert read_tags(path) == tags_of(path, "lr") == [*expected, "dog"]


@pytest.mark.parametrize("subject", [SUBJECT.format(""), SUBJECT.format(" \n"), f"<dc:subject {DC} />"])
def test_an_empty_property_gets_a_list(subject, tmp_path):
    path = write_others(tmp_path, subject)
    add_tags(tmp_path / "a.jpg", ["dog", "a & b"])
    assert tags_of(path) == tags_of(path, "lr") == read_tags(path) == ["dog", "a & b"]


def test_an_empty_property_where_rdf_has_no_prefix(tmp_path):
    path = tmp_path / "a.jpg.xmp"
    subject = "<subject xmlns='http://purl.org/dc/elements/1.1/'/>"
    path.write_text(f"<RDF xmlns='{RDF}'><Description>{subject}</Description></RDF>")
    add_tags(tmp_path / "a.jpg", ["dog"])
    assert tags_of(path) == tags_of(path, "lr") == read_tags(path) == ["dog"]


@pytest.mark.parametrize("declared", ["US-ASCII", "ascii", "UTF8", "utf-8"])
def test_names_of_encodings(declared, tmp_path):
    """Another reader, which takes the name at its word, reads the tags."""
    path = write_others(tmp_path, SUBJECT.format("<rdf:Bag/>"))
    text = path.read_text(encoding="utf-8").replace("\ufeff", "")
    path.write_text(f'<?xml version="1.0" encoding="{declared}"?>{text}', encoding="utf-8")
    add_tags(tmp_path / "a.jpg", HOSTILE)
    assert tags_of(path) == tags_of(path, "lr") == read_tags(path) == HOSTILE
    assert ("🐈".encode() in path.read_bytes()) == (declared == "utf-8")


@pytest.mark.parametrize("length, style", [(230, "append"), (247, "append"), (251, "replace")])
def test_long_names(length, style, tmp_path):
    picture = tmp_path / f"{'n' * length}.jpg"
    path = add_tags(picture, ["dog"], style)
    add_tags(picture, ["cat"], style)
    assert read_tags(path) == ["dog", "cat"] and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "no element found"),
        (b"JFIF\x00\xff", "not well-formed"),
        (b"<a>", "no element found"),
        (b"<a/>", "it has no rdf:RDF"),
        (b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>\xff</x:xmpmeta>", "not well-formed"),
        (OTHERS.encode("utf-16"), "it is not in UTF-8"),
        (OTHERS.encode("utf-16-be"), "it is not in UTF-8"),
        (OTHERS.encode("utf-16-le"), "it is not in UTF-8"),
        (
            OTHERS.replace("{subject}", "")
            .replace("</rdf:RDF>", '<rdf:Description rdf:about="uuid:2"/></rdf:RDF>')
            .encode(),
            """its rdf:Descriptions are about different things: 'uuid:1 "x"', 'uuid:2'""",
        ),
        (OTHERS.replace("{subject}", SUBJECT.format("<rdf:Alt/>")).encode(), "its dc:subject has no rdf:Bag"),
        (
            OTHERS.replace("{subject}", f"<dc:subject {DC} rdf:nodeID='n'/>").encode(),
            "its dc:subject has no rdf:Bag",
        ),
        (b'<?xml version="1.0" encoding="latin-1"?><a/>', "it is not in UTF-8"),
        (b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', "declares a document type"),
        (b'<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]><a>&c;</a>', "declares a document type"),
        (b"<a>&b;</a>", "undefined entity"),
        (b"<a>" * 200 + b"</a>" * 200, "nested more than 100 deep"),
        (OTHERS.replace("{subject}", SUBJECT.format("dog")).encode(), "its dc:subject has no rdf:Bag"),
        (
            OTHERS.replace("z:note", 'xmlns:dc="http://purl.org/dc/elements/1.1/" dc:subject').encode(),
            "has no rdf:Bag",
        ),
    ],
)
def test_what_is_no_xmp_is_refused_and_stays(content, message, tmp_path):
    path = tmp_path / "a.jpg.xmp"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        add_tags(tmp_path / "a.jpg", ["dog"])
    assert str(path) in str(raised.value)
    assert path.read_bytes() == content and os.listdir(tmp_path) == ["a.jpg.xmp"]


def test_what_is_no_file_is_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "a.jpg.xmp")
    with pytest.raises(ValueError, match="pipe or device"):
        add_tags(tmp_path / "a.jpg", ["dog"])
    (tmp_path / "b.jpg.xmp").mkdir()
    with pytest.raises(IsADirectoryError):
        add_tags(tmp_path / "b.jpg", ["dog"])
    monkeypatch.setattr("clip_hf.search.xmp_sidecars._MOST_BYTES", 100)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        read_tags(write_others(tmp_path / "b.jpg.xmp"))


def test_a_sidecar_keeps_its_mode_and_a_link_its_target(tmp_path):
    (tmp_path / "real").mkdir()
    path = write_others(tmp_path / "real")
    path.chmod(0o640)
    (tmp_path / "a.jpg.xmp").symlink_to(path)
    assert add_tags(tmp_path / "a.jpg", ["dog"]) == path
    assert (tmp_path / "a.jpg.xmp").is_symlink() and read_tags(path) == ["dog"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
