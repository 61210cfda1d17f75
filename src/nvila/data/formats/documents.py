"""Interleaved documents (as in MMC4): a list of texts, and for each picture the text that it belongs to.

A document becomes a conversation in its reading order: pictures are shown, the text that follows them is the answer,
further pictures, further text. So every text behind the first picture is learned, and text before it is read only.
Pictures behind the last text teach nothing; they are left out and counted in `meta["num_unused_images"]`.
"""

from __future__ import annotations

from nvila.data.formats.base import Draft, Format, Record, Turn, Where, has, list_at, mapping_at, text_at


def _read(record: Record, where: Where) -> Draft:
    texts = [text_at(text, f"text_list[{i}]", where) for i, text in enumerate(list_at(record, "text_list", where))]
    infos = [mapping_at(v, f"image_info[{i}]", where) for i, v in enumerate(list_at(record, "image_info", where))]
    before: dict[int, list[int]] = {}
    for number, info in enumerate(infos):
        index = info.get("matched_text_index")
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(texts):
            raise where.error(
                f"image_info[{number}].matched_text_index is {index!r}, and there are {len(texts)} texts", kind="count"
            )
        before.setdefault(index, []).append(number)
    if not before:
        raise where.error("is a document with 0 pictures; give texts alone as messages", kind="count")
    return _conversation(texts, before, infos, where)


def _conversation(
    texts: list[str], before: dict[int, list[int]], infos: list[dict[str, object]], where: Where
) -> Draft:
    turns: list[Turn] = []
    lead: list[str] = []
    answer: list[str] = []
    shown: list[object] = []
    for index, text in enumerate(texts):
        pictures = before.get(index, [])
        if pictures:
            _close(turns, answer, index)
            question = {"type": "text", "text": "\n".join(lead)}
            parts = [question] if lead else []
            shown += parts + [{"type": "image", "image": _reference(infos[n], n, where)} for n in pictures]
            lead = []
        if text.strip():
            (answer if shown or turns else lead).append(text)
        if answer and shown:
            turns.append(Turn(role="user", content=shown, key=f"text_list[{index}]"))
            shown = []
    _close(turns, answer, len(texts))
    num_unused = sum(isinstance(part, dict) and part.get("type") == "image" for part in shown)
    return Draft(turns=turns, meta={"num_unused_images": num_unused} if num_unused else {})


def _close(turns: list[Turn], answer: list[str], index: int) -> None:
    """Ends the answer so far with what was read before text `index`."""
    if answer:
        turns.append(Turn(role="assistant", content=["\n".join(answer)], key=f"text_list[{index - 1}]"))
        answer.clear()


def _reference(info: dict[str, object], number: int, where: Where) -> object:
    for key in ("image_name", "image", "path", "raw_url", "url"):
        if info.get(key):
            return info[key]
    raise where.error(f"image_info[{number}] names no picture; give image_name or raw_url", kind="missing media")


INTERLEAVED = Format(
    name="interleaved",
    help="interleaved documents (MMC4): text_list, and image_info with matched_text_index",
    needs=("text_list", "image_info"),
    keys=("text_list", "image_info"),
    fits=lambda record: has(record, "text_list", "image_info"),
    read=_read,
)
