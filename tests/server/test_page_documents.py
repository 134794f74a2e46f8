"""Documents in the chat, in a real browser: uploaded, asked, cited, taken away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from console import DONE, click, talk, text

CITED = """Promise.all([import('/lib/tree.js'), import('/chat/session.js')]).then(([tree, { session, changed }]) => {
  tree.add(session.talk, session.talk.leaf, { role: 'user', content: 'When?' });
  tree.add(session.talk, session.talk.leaf, { role: 'assistant', end: 'stop', content: 'At nine [1], not [2].',
    citations: [{ file_id: session.talk.files[0].id, filename: 'hours.md', number: 1, passage: 0, text: 'old words' }] });
  return changed('talk'); })"""


def test_a_document_is_uploaded_asked_and_cited(taught: Any, page: Any, tmp_path: Path) -> None:
    file = tmp_path / "hours.md"
    file.write_text("# Hours\n\nThe bakery in the third alley opens at nine.\n", encoding="utf-8")
    taught.http.post("/v1/vector_stores", json={"name": "handbooks"})
    page.open(taught.url)
    click(page, "#attach")
    page.until("!!document.querySelector('dialog input[type=file]')")
    assert "handbooks (0)" in text(page, "dialog fieldset")
    field = page.call("Runtime.evaluate", expression="document.querySelector('dialog input[type=file]')")
    page.call("DOM.setFileInputFiles", files=[str(file)], objectId=field["result"]["objectId"])
    page.until("document.querySelector('.attached .chip')?.textContent === 'hours.md'")

    page.js("document.getElementById('input').focus(), 1")
    page.write("How far away is the moon of Jupiter?")
    page.enter()
    page.until(DONE.format(1))
    assert text(page, ".grounded") == "The documents hold no answer to this."
    page.js(CITED)
    page.until("document.querySelectorAll('.cite').length === 1")
    assert "not [2]." in page.js("[...document.querySelectorAll('.assistant .bubble')].at(-1).textContent")
    click(page, ".cite")
    page.until("document.querySelector('dialog .passage')?.textContent.includes('third alley')")
    page.key("Escape", code=27)
    page.until("document.querySelector('dialog') === null")

    page.until("JSON.parse(sessionStorage.getItem('hanok.talk')).version >= 2")
    kept = talk(page)
    assert [one["name"] for one in kept["files"]] == ["hours.md"]
    saved = taught.http.get(f"/console/conversations/{kept['id']}").json()
    assert saved["own_store"] == kept["own_store"]
    assert saved["messages"][-1]["citations"][0]["number"] == 1
    click(page, ".attached button")
    page.until("document.querySelector('.attached').hidden")
    members = taught.http.get(f"/v1/vector_stores/{kept['own_store']}/files").json()["data"]
    assert members == []
    click(page, f"#talks [data-id='{kept['id']}'] .quiet")
    click(page, "dialog .danger-text")
    click(page, "dialog .danger")
    page.until("document.querySelectorAll('.turn').length === 0")
    page.until(f"fetch('/v1/vector_stores/{kept['own_store']}').then((r) => r.status === 404)")
