"""What admins set up, a part of `day.py`."""

import os
import re
from urllib.error import HTTPError

from kit import ask, expect, until


def manages_connections(person):
    page = person.page
    person.open("/connections")
    page.get_by_label("Another connection").fill("billing")
    page.get_by_role("button", name="Create").click()
    made = page.get_by_role("status").filter(has_text="The key of billing").locator("pre")
    expect(made).to_have_text(re.compile("^sk_live_"))
    first = made.inner_text()
    expect(page.locator("main")).to_contain_text(f"SLUICE_API_KEY={first}")
    page.get_by_role("button", name="Rotate key of billing").click()
    page.get_by_role("button", name="Make another key").click()
    expect(made).not_to_have_text(first)
    # It goes on under another name, with the key that it has.
    page.get_by_role("button", name="Rename billing").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Rename")).to_be_disabled()
    dialog.get_by_label("Its name").fill("accounts")
    person.look_around("connection-rename")
    dialog.get_by_label("Its name").press("Enter")
    expect(page.get_by_role("button", name="Rename accounts")).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="The key of accounts").locator("pre")).to_have_text(re.compile("^sk_live_"))
    # What belongs to the configuration is not changed here, and a name that is taken is said to be.
    expect(page.get_by_role("button", name=re.compile("(Rename|Delete) default"))).to_have_count(0)
    person.allowed = ("409 (Conflict)",)
    page.get_by_role("button", name="Rename accounts").click()
    dialog.get_by_label("Its name").fill("default")
    dialog.get_by_role("button", name="Rename").click()
    expect(page.get_by_role("alert")).to_contain_text("belong to the server's configuration")
    person.allowed = ()
    page.get_by_role("button", name="Rename accounts").click()
    dialog.get_by_label("Its name").fill("billing")
    dialog.get_by_role("button", name="Rename").click()
    expect(page.get_by_role("button", name="Rename billing")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    person.look_around("connections")
    # Who deletes one types its name.
    page.get_by_label("Another connection").fill("a mistake")
    page.get_by_role("button", name="Create").click()
    page.get_by_role("button", name="Delete a mistake").click()
    field, delete = dialog.get_by_label("Type a mistake to delete it"), dialog.get_by_role("button", name="Delete")
    expect(delete).to_be_disabled()
    field.fill("a mistak")
    field.press("Enter")
    expect(delete).to_be_disabled()
    person.look_around("connection-delete")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_have_count(0)
    page.get_by_role("button", name="Delete a mistake").click()
    field.fill("a mistake")
    delete.click()
    expect(page.get_by_role("button", name="Delete a mistake")).to_have_count(0)
    expect(page.get_by_role("status").filter(has_text="The key of")).to_have_count(0)
    expect(page.locator("main")).to_contain_text("billing")
    expect(page.get_by_label("Connection", exact=True)).to_have_count(0)
    page.get_by_role("link", name="Overview").click()
    page.get_by_label("Connection", exact=True).select_option("billing")
    expect(page).to_have_url(re.compile("connectionId="))


def manages_read_keys(person):
    page = person.page
    page.get_by_role("link", name="Read keys").click()
    page.get_by_label("Another key").fill("nightly report")
    page.get_by_role("button", name="Create").click()
    made = page.get_by_role("status").filter(has_text="The key nightly report").locator("pre")
    expect(made).to_have_text(re.compile("^rk_live_"))
    key = made.inner_text()
    expect(page.locator("main")).to_contain_text(f"Authorization: Bearer {key}")
    assert ask("/api/jobs?limit=1", key)["data"], "it reads"
    person.look_around("keys")
    # A name that is taken is said to be, and what was typed stays.
    person.allowed = ("409 (Conflict)",)
    page.get_by_label("Another key").fill("nightly report")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("alert")).to_contain_text("exists already")
    expect(page.get_by_label("Another key")).to_have_value("nightly report")
    person.allowed = ()
    page.get_by_role("button", name="Delete nightly report").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("There is no read key")).to_be_visible()
    try:
        ask("/api/jobs?limit=1", key)
    except HTTPError as refused:
        assert refused.code == 401, refused
    else:
        raise AssertionError("a deleted key still reads")
    person.open("/keys")
    expect(page.get_by_text("There is no read key")).to_be_visible()
    expect(page.locator("main")).not_to_contain_text(key)


def manages_sources(person):
    page, broker = person.page, os.environ["SHOP_BROKER"].rsplit("/", 1)[0] + "/9"
    page.get_by_role("link", name="Sources", exact=True).click()
    configured = page.locator(".panel").filter(has=page.get_by_role("heading", name="default", exact=True))
    expect(configured).to_contain_text("connected")
    # What the configuration declares is not taken away here.
    expect(configured.get_by_role("button")).to_have_count(0)
    page.get_by_label("Name").fill("night")
    page.get_by_label("Broker").fill(broker.replace("redis://", "redis://:s3cret@"))
    page.get_by_role("button", name="Listen").click()
    added = page.locator(".panel").filter(has=page.get_by_role("heading", name="night", exact=True))
    # This Redis asks for no password, and refuses one.
    expect(added).to_contain_text("refused")
    expect(page.locator("main")).not_to_contain_text("s3cret")
    expect(page.get_by_label("Broker")).to_have_value("")
    person.look_around("sources")
    added.get_by_role("button", name="Remove night").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(added).to_have_count(0)
    page.get_by_label("Name").fill("night")
    page.get_by_label("Broker").fill(broker)
    page.get_by_role("button", name="Listen").click()
    expect(added).to_contain_text("connected")
    added.get_by_role("button", name="Remove night").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(added).to_have_count(0)


def sees_who_changed_what(person):
    page = person.page
    page.get_by_role("link", name="Changes").click()
    rows = page.get_by_role("table", name="Changes").get_by_role("row")
    for what, about in [("made a read key", "name: nightly report"), ("deleted a read key", "name: nightly report"), ("added a source", "name: night"),
                        ("gave a connection another key", "name: billing"), ("renamed a connection", "former: accounts"),
                        ("deleted a connection", "name: a mistake"), ("began a rebuild", "id: ")]:
        row = rows.filter(has_text=what).first
        expect(row).to_contain_text(about)
        expect(row).to_contain_text("admin")
    expect(rows.last).to_contain_text("the server")
    expect(page.locator("main")).not_to_contain_text("s3cret")
    person.look_around("audit")
