# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Reads docstrings in transformers' manner for these pages: its links, and its Markdown in the types of arguments."""

import re

import griffe


LINK = re.compile(r"\[`(~?)([\w.]+)`\](?!\[|\()")
ARGUMENT = re.compile(r"^(\s+\*{0,2}\w+(?:, \*{0,2}\w+)* )(\(.*\))(:.*)$", flags=re.MULTILINE)
RETURNED = re.compile(r"^((?:Returns|Yields):\n\s+)(`[^\n:]*)(:)", flags=re.MULTILINE)
MARKUP = re.compile(r"\[`~?([\w.]+)`\]|\*(\w+)\*|`")
OPTIONAL = re.compile(r", optional(, defaults to .*)?(?=\)$)")


class TransformersDocstrings(griffe.Extension):
    """
    - [`Name`] and [`~Name.method`] become links to public names of clip_hf, and plain code for all other names.
    - Types lose their Markdown, which would be shown as it stands: (`int`, *optional*) becomes (int, optional). In
      functions they lose the default as well, which the signature has.
    - What is returned stays one text: the type comes from the signature.
    """

    def on_package(self, *, pkg: griffe.Module, **kwargs) -> None:
        """Rewrite every docstring of the package once all of it is read."""
        public: dict[str, str] = {}
        for module in [pkg, *(member for member in pkg.members.values() if not member.is_alias)]:
            if module is pkg or (module.is_module and module.is_subpackage):
                for name in module.exports or ():
                    public.setdefault(str(name).strip("'\""), module.path)

        def link(match: re.Match) -> str:
            name = match[2].removeprefix("clip_hf.")
            shown = name.rpartition(".")[2] if match[1] else name
            parts = name.split(".")
            has_entry = parts[0] in public and all(part[0] != "_" or part == "__call__" for part in parts)
            return f"[`{shown}`][{public[parts[0]]}.{name}]" if has_entry else f"`{shown}`"

        def visit(item: griffe.Object) -> None:
            def plain(match: re.Match) -> str:
                # Links in types go as well: a type is not read as Markdown.
                annotation = MARKUP.sub(lambda markup: markup[1] or markup[2] or "", match[2])
                return match[1] + (OPTIONAL.sub("", annotation) if item.is_function else annotation) + match[3]

            if item.docstring is not None:
                text = RETURNED.sub(r"\1\2 –", ARGUMENT.sub(plain, item.docstring.value))
                item.docstring.value = LINK.sub(link, text)
            for member in item.members.values():
                if not member.is_alias:
                    visit(member)

        visit(pkg)
