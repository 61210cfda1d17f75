"""The chat format: the Jinja template, and which tokens of a conversation are trained on.

The whole rule set for text lives in the template, because serving engines render it without calling us. It is ChatML
with a default system prompt; media placeholders stand where their parts stand; placeholders that a user types are
removed. With `tile_newline` (dynamic tiling) a tiled picture is followed by a newline of text: the conversation's only
picture, or one with `max_tiles` of its own. `keep_final_newline` keeps that newline at the end of a turn, where
stripping the message would lose it; the published three-folder checkpoints were trained without it, the single-folder
NVILA-Lite ones with it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from nvila.layouts import PLACEHOLDERS

SPECIAL_TOKENS = PLACEHOLDERS
SENTINEL_TOKEN, IMAGE_TOKEN, VIDEO_TOKEN = SPECIAL_TOKENS
DEFAULT_SYSTEM_PROMPT = "You are a helpful assistant"
ASSISTANT_HEADER = "assistant\n"
IGNORED = -100

_BODY = """\
{%- macro clean(text) -%}
  {%- if '<vila/sentinel>' in text or '<image>' in text or '<vila/video>' in text -%}
    {{- text | replace('<vila/sentinel>', '') | replace('<image>', '') | replace('<vila/video>', '') | trim -}}
  {%- else -%}
    {{- text -}}
  {%- endif -%}
{%- endmacro -%}
{%- set found = namespace(images=0, videos=0) -%}
{%- for message in messages -%}
  {%- if message['content'] is not string -%}
    {%- for part in message['content'] -%}
      {%- if part['type'] in ['image', 'image_url'] -%}{%- set found.images = found.images + 1 -%}{%- endif -%}
      {%- if part['type'] in ['video', 'video_url'] -%}{%- set found.videos = found.videos + 1 -%}{%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endfor -%}
{%- if messages[0]['role'] != 'system' -%}
  {{- '<|im_start|>system\\n' ~ default_system_prompt ~ '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
  {%- set turn = namespace(text='', images=0, videos=0, newline=false) -%}
  {%- if message['content'] is string -%}
    {%- set turn.text = clean(message['content']) -%}
  {%- else -%}
    {%- for part in message['content'] -%}
      {%- if part['type'] in ['image', 'image_url'] -%}
        {%- set alone = found.images == 1 and found.videos == 0 -%}
        {%- set turn.newline = tile_newline and (alone or (part['max_tiles'] or 1) > 1) -%}
        {%- set turn.text = turn.text ~ '<image>' ~ ('\\n' if turn.newline else '') -%}
        {%- set turn.images = turn.images + 1 -%}
      {%- elif part['type'] in ['video', 'video_url'] -%}
        {%- set turn.text = turn.text ~ '<vila/video>' -%}
        {%- set turn.videos = turn.videos + 1 -%}
      {%- else -%}
        {%- set turn.text = turn.text ~ clean(part['text']) -%}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {%- set text = turn.text | trim -%}
  {%- if text.count('<image>') != turn.images or text.count('<vila/video>') != turn.videos -%}
    {{- raise_exception('the text of a message spells a media placeholder; remove it') -}}
  {%- endif -%}
  {%- if keep_final_newline and turn.newline and text.endswith('<image>') -%}
    {%- set text = text ~ '\\n' -%}
  {%- endif -%}
  {{- '<|im_start|>' ~ message['role'] ~ '\\n' ~ text ~ '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def chat_template(*, tile_newline: bool, keep_final_newline: bool) -> str:
    """The Jinja template of a checkpoint; the two options are described at the top of this file."""
    options = {
        "default_system_prompt": DEFAULT_SYSTEM_PROMPT,
        "tile_newline": tile_newline,
        "keep_final_newline": keep_final_newline,
    }
    return "".join(f"{{%- set {name} = {json.dumps(value)} -%}}\n" for name, value in options.items()) + _BODY


def clean_text(text: str) -> str:
    """`text` without the media placeholders; stripped if it held one, however they were nested."""
    if not any(token in text for token in SPECIAL_TOKENS):
        return text
    while any(token in text for token in SPECIAL_TOKENS):
        for token in SPECIAL_TOKENS:
            text = text.replace(token, "")
    return text.strip()


def chat_labels(input_ids: Sequence[int], *, im_start: int, im_end: int, assistant_header: Sequence[int]) -> list[int]:
    """Labels of one conversation in ChatML: every answer with its <|im_end|>, and -100 elsewhere.

    `assistant_header` are the ids of "assistant" and the newline, which follow `im_start`. The newline after
    <|im_end|>, the header, the prompt and the media are not trained on. An answer that was cut off before its
    <|im_end|> is trained on to its end.
    """
    labels = [IGNORED] * len(input_ids)
    opening = [im_start, *assistant_header]
    position = 0
    while position < len(input_ids):
        if input_ids[position] != im_start or list(input_ids[position : position + len(opening)]) != opening:
            position += 1
            continue
        position += len(opening)
        while position < len(input_ids):
            labels[position] = input_ids[position]
            position += 1
            if labels[position - 1] == im_end:
                break
    return labels
