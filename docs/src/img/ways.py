#!/usr/bin/env python3
"""Draws ways.svg: the ways a connect can take. Usage: python3 ways.py > ways.svg"""

WAYS = [
    ("direct", "the caller dials the listener", [("caller", "listener", "dial", False)]),
    ("reverse", "the listener dials back, asked over MQTT",
     [("caller", "servers", "request", True), ("servers", "listener", "", True), ("listener", "caller", "dial", False)]),
    ("punch", "both NATs are measured, both ends dial at once",
     [("caller", "servers", "ports", True), ("listener", "servers", "ports", True), ("caller", "listener", "dial", False),
      ("listener", "caller", "dial", False)]),
    ("udp", "the same with datagrams, then QUIC",
     [("caller", "servers", "ports", True), ("listener", "servers", "ports", True), ("caller", "listener", "probe", False),
      ("listener", "caller", "probe", False)]),
    ("relay", "both ends meet at a TURN server",
     [("caller", "servers", "sealed stream", False), ("servers", "listener", "sealed stream", False)]),
]
WIDTH, ROW, TOP = 760, 118, 14
PLACES = {"caller": (120, 84), "servers": (400, 34), "listener": (680, 84)}
STYLE = """
  text { font: 14px sans-serif; fill: #333 }
  .name { font-weight: bold; font-size: 15px }
  .small { font-size: 12px; fill: #666 }
  rect { fill: #eef3fb; stroke: #4a6fa5 }
  path { stroke: #2b5797; stroke-width: 2; fill: none }
  path.asked { stroke: #999; stroke-dasharray: 5 4; stroke-width: 1.5 }
  .page { fill: #fff; stroke: none }
"""


def arrow(y, start, end, label, asked, shift):
    (x1, y1), (x2, y2) = PLACES[start], PLACES[end]
    dx = 58 if x2 > x1 else -58
    a, b = (x1 + dx, y + y1 + shift), (x2 - dx, y + y2 + shift)
    kind = ' class="asked"' if asked else ""
    line = f'<path{kind} d="M{a[0]},{a[1]} L{b[0]},{b[1]}" marker-end="url(#{"tip2" if asked else "tip"})"/>'
    if label:
        line += f'<text class="small" x="{(a[0] + b[0]) / 2}" y="{(a[1] + b[1]) / 2 - (5 if a[1] == b[1] else 14)}" text-anchor="middle">{label}</text>'
    return line


def row(n, name, what, arrows):
    y = TOP + n * ROW
    out = [f'<text class="name" x="16" y="{y + 16}">{name}</text><text class="small" x="92" y="{y + 16}">{what}</text>']
    for place, (x, dy) in PLACES.items():
        shown = {"servers": "TURN server" if name == "relay" else "MQTT broker"}.get(place, place)
        if place == "servers" and name == "direct":
            continue
        out.append(f'<rect x="{x - 54}" y="{y + dy - 14}" width="108" height="28" rx="5"/>'
                   f'<text x="{x}" y="{y + dy + 5}" text-anchor="middle">{shown}</text>')
    both = [a for a in arrows if {a[0], a[1]} == {"caller", "listener"}]
    for a in arrows:
        shift = 0 if len(both) < 2 or a not in both else (-5 if a is both[0] else 9)
        label = "" if len(both) == 2 and a is both[1] else a[2]
        out.append(arrow(y, a[0], a[1], label, a[3], shift))
    return "\n".join(out)


height = TOP + len(WAYS) * ROW
print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
      f'aria-label="The four ways of a connect: direct, reverse, punch, relay">')
print(f"<style>{STYLE}</style>")
for tip, colour in (("tip", "#2b5797"), ("tip2", "#999")):
    print(f'<marker id="{tip}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
          f'<polygon points="0,0 8,4 0,8" fill="{colour}"/></marker>')
print(f'<rect class="page" x="0" y="0" width="{WIDTH}" height="{height}"/>')
for n, way in enumerate(WAYS):
    print(row(n, *way))
print("</svg>")
