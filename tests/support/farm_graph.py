"""A graph in three fragments: `decode` in ingest, two operators in pose, three in record."""

FARM = """\
name: farm
between: {image: png, partitions: 6, session_s: 6}
graph:
  decode:  {op: decode, fragment: ingest}
  find:    {op: "fragment_toys:Remember", ms: 0, after: decode, fragment: pose}
  again:   {op: "toys:Same", after: find, fragment: pose}
  use:     {op: "toys:NeedsScores", after: again, fragment: record}
  more:    {op: "toys:Same", after: again, fragment: record}
  results: {op: jsonl_sink, dir: out, after: [use, more], fragment: record}
"""
