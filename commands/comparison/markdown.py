"""Formats tables as Markdown."""

from collections.abc import Sequence

from commands.comparison.tables import Table


def as_markdown(made: Sequence[Table]) -> str:
    """The tables, aligned so that a terminal shows them well."""
    return "\n".join(
        f"## {table.title}\n\n{_aligned(table)}\n" + (f"\n{table.note}\n" if table.note else "") for table in made
    )


def _aligned(table: Table) -> str:
    best = {column.name: table.best(column) for column in table.columns}
    columns = [column for column in table.columns if any(table.cell(row, column) for row in table.rows)]
    lines = [["run", *(column.name for column in columns)]]
    for row in table.rows:
        cells = [table.cell(row, column) for column in columns]
        marked = [f"**{cell}**" if best[c.name] is row else cell for cell, c in zip(cells, columns, strict=True)]
        lines.append([row.label, *marked])
    lines = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(columns) + 1)]
    right = [False, *(column.kind != "text" for column in columns)]
    rule = [f"{'-' * (width - 1)}{':' if at_right else '-'}" for width, at_right in zip(widths, right, strict=True)]
    padded = [
        [c.rjust(width) if r else c.ljust(width) for c, width, r in zip(line, widths, right, strict=True)]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])
