"""The page in a real browser, by keyboard and mouse."""

from __future__ import annotations

import asyncio
import re

import pytest

from tests import browser
from tests.muse_tools.explore import world

CHROMIUM = browser.find()
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on the path (or in $CHROMIUM)"
)
ROWS = """Object.fromEntries(['model', 'sim_hard', 'sim_soft'].map((key) => [
  key, [...document.querySelectorAll(`#list-${key} tbody tr`)].map(
    (row) => [row.dataset.id, row.innerText, row.querySelectorAll('.mark').length]
  )]))"""  # noqa: E501


def test_choose_a_user_by_keyboard_and_a_candidate_by_mouse(
    explored, url, tmp_path
):
    asyncio.run(_choose(explored, url, tmp_path))


async def _choose(explored, url, folder):
    async with browser.opened(CHROMIUM, folder, url) as page:
        await page.shape(390, 800, dark=True)
        await page.until("document.querySelectorAll('#users li').length == 4")
        # It opens with the longest history and its best candidate.
        await page.until("document.querySelectorAll('.box').length == 3")
        best = explored.explorer.user(world.LONG)["impressions"][0]
        assert await _chosen(page, "user") == str(world.LONG)
        assert await _chosen(page, "item") == best["item_id"]
        await _check_lists(page, explored, best["item_id"])
        # `/` goes to the users; 7 and 71 begin with 7, the second is 71.
        await page.press("/")
        assert await page.value("document.activeElement.id") == "user-search"
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert await page.value(outline) == "solid"
        await page.type("7")
        await page.until("document.querySelectorAll('#users li').length == 2")
        await page.press("ArrowDown")
        active = "document.activeElement.getAttribute('aria-activedescendant')"
        assert await page.value(active) == "users-1"
        await page.press("ArrowUp")
        await page.press("Enter")
        await page.until("document.querySelectorAll('#items li').length == 6")
        assert "user=7" in await page.value("location.hash")
        assert await _chosen(page, "user") == "7"
        # The focus is in the candidates by now.
        assert await page.value("document.activeElement.id") == "item-search"
        await page.click("#items li:nth-child(3)")
        third = explored.explorer.user(world.LONG)["impressions"][2]
        await page.until(f"location.hash.includes('item={third['item_id']}')")
        name = "document.querySelector('#result h2')?.innerText"
        await page.until(f"{name} === {third['name']!r}")
        item = await _chosen(page, "item")
        assert item == third["item_id"]
        await _check_lists(page, explored, item)
        sizes = "[document.documentElement.scrollWidth, innerWidth]"
        width, window = await page.value(sizes)
        assert width <= window
        dark = await page.value(
            "getComputedStyle(document.body).backgroundColor"
        )
        assert dark == "rgb(20, 24, 30)"
        await page.shape(1200, 800)
        light = "getComputedStyle(document.body).backgroundColor"
        assert await page.value(light) == "rgb(255, 255, 255)"
        # By keyboard to another candidate, then an address that is wrong.
        await page.click("#item-search")
        await page.press("ArrowDown")
        await page.press("Enter")
        await page.until(f"!location.hash.includes('item={item}')")
        assert page.problems == []
        assert all(one.startswith(url) for one in page.requested)
        await page.value("location.hash = 'user=6'")
        words = await page.until(
            "document.querySelector('[role=alert]').innerText"
        )
        assert "no user 6" in words and "for example 7" in words


async def _chosen(page, kind):
    chosen = f"document.querySelector('#{kind}s [aria-selected=true]')"
    return await page.value(f"{chosen}?.dataset.id")


async def _check_lists(page, explored, item):
    """What is seen is what the explorer says."""
    found = explored.explorer.explain(world.LONG, int(item))
    seen = await page.value(ROWS)
    for key, rows in found["lists"].items():
        items = list(dict.fromkeys(row["item_id"] for row in rows))
        assert [row[0] for row in seen[key]] == items
        for row, (_, text, marks) in zip(
            {row["item_id"]: row for row in reversed(rows)}.values(),
            reversed(seen[key]),
            strict=False,
        ):
            assert row["name"] in text
            assert f"{row['similarity']:.3f}" in text
            assert re.search(r"\d+ behaviors? ago", text)
            same = [one for one in rows if one["item_id"] == row["item_id"]]
            assert marks == len({key for one in same for key in one["also"]})
    score = await page.value("document.querySelector('.score').innerText")
    assert score == f"{found['candidate']['click_probability']:.4f}"
    bars = "document.querySelectorAll('#result svg rect').length"
    assert await page.value(bars) == len(found["tiers"])
