"""What notebooks show of pools, mappings, leases and statistics."""

import html.parser
import re

import pytest

import foliocache

BAD = "<script>alert('x')</script>&\"\x00"


class Balanced(html.parser.HTMLParser):
    """Raises an error for tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.seen = [], []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in ("br", "rect"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        if tag != "rect":
            assert self.stack.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)


def widths(text):
    return [float(width) for width in re.findall(r'<rect x="[\d.]+" width="([\d.]+)"', text)]


def test_a_pool_and_its_statistics(pool, source):
    pool.mapping("k", len(source.content), "1", source.read).read_bytes(0, len(source.content))
    text = pool._repr_html_()
    assert Balanced(text).seen[:2] == ["div", "b"]
    assert f"Pool {pool.name}" in text and "1 objects" in text
    found = pool.stat()
    assert found._repr_html_() == text
    assert widths(text)[0] == pytest.approx(360 * found.pages_by_state.file / found.pages, abs=0.01)


def test_a_mapping_shows_which_parts_are_cached(pool, source):
    mapping = pool.mapping("k", len(source.content), "1", source.read, readahead=0)
    assert "nothing" in mapping._repr_html_()
    mapping.read_bytes(0, len(source.content) // 2)
    text = mapping._repr_html_()
    assert re.search(r"about (4\d|5\d) %", text) and len(widths(text)) == 120
    mapping.read_bytes(0, len(source.content))
    before = pool.stat().counters
    assert "<td>all</td>" in mapping._repr_html_()
    assert pool.stat().counters == before  # looking is no use
    Balanced(pool.mapping("empty", 0, "", source.read)._repr_html_())


def test_keys_are_text(pool, source):
    text = pool.mapping(BAD, 100, BAD, source.read)._repr_html_()
    assert "script" not in Balanced(text).seen and "&lt;script&gt;" in text


def test_a_lease(pool, source):
    mapping = pool.mapping("k", 1000, "1", source.read)
    with mapping.lease(0) as lease:
        assert "1,000" in lease._repr_html_() and "pinned" in lease._repr_html_()
    Balanced(lease._repr_html_())
    assert "released" in lease._repr_html_()


def test_what_is_closed_is_shown_as_text(pool, source):
    mapping = pool.mapping(BAD, 1000, "1", source.read)
    pool.close()
    assert pool._repr_html_() == html.escape(repr(pool))
    assert mapping._repr_html_() == html.escape(repr(mapping))
    with pytest.raises(foliocache.FoliocacheError):
        pool.stat()
