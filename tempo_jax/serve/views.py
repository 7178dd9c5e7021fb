"""What the page shows of an answer, as HTML; its style and its few lines of script. No Gradio here."""

import base64
import html

from tempo_jax.plot import clock
from tempo_jax.serve.drawing import allocation_svg, weighed
from tempo_jax.serve.service import Done

MOST_THUMBNAILS = 6
NOTHING = (None, "", "", "")  # chat, statistics, plot, thumbnails

CSS = """
.tempo-plot { width: 100%; height: auto; display: block; }
.tempo-plot text { font-size: 11px; }
.message-content, .message .prose { white-space: pre-line; }
.tempo-seek { cursor: pointer; }
.tempo-seek:hover rect, .tempo-seek:focus rect { fill-opacity: .18; }
.tempo-seek:hover rect:first-of-type, .tempo-seek:focus rect:first-of-type { fill-opacity: .7; }
.tempo-strip { display: flex; flex-wrap: wrap; gap: .5rem; }
.tempo-strip figure { margin: 0; width: 8.5rem; }
.tempo-strip img { width: 100%; border-radius: .25rem; display: block; }
.tempo-strip figcaption, .tempo-stats { font-size: .85rem; }
.tempo-stats { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; }
.tempo-stats b { font-variant-numeric: tabular-nums; }
.tempo-saved, .tempo-warning { flex-basis: 100%; }
@media (max-width: 640px) {
  .tempo-plot text { font-size: 20px; }
  .tempo-strip figure { width: calc(50% - .25rem); }
}
"""

SCRIPT = """
for (const kind of ["click", "keydown"]) document.addEventListener(kind, event => {
  if (kind === "keydown" && event.key !== "Enter") return;
  const target = event.target.closest && event.target.closest("[data-seconds]");
  const video = target && document.querySelector("#" + target.dataset.player + " video");
  if (!video) return;
  video.currentTime = Number(target.dataset.seconds);
  video.scrollIntoView({block: "nearest", behavior: "smooth"});
});
"""


def status(text: str) -> str:
    return f'<div class="tempo-stats" role="status">{html.escape(text)}</div>'


def done(event: Done, player: str) -> list[str]:
    """Statistics, plot and thumbnails."""
    answer = event.answer
    svg = allocation_svg(answer.segments, answer.token_limits, player)
    return [statistics(event), svg, thumbnails(event, player)]


def statistics(event: Done) -> str:
    usage, timings = event.answer.usage, event.answer.timings
    values = {
        "frames": usage["frames"],
        "segments": usage["segments"],
        "visual tokens": f"{usage['visual_tokens']} of {usage['budget']}",
        "tokens a frame": f"{usage['tokens_per_frame']:.3g}",
        "prompt tokens": usage["prompt_tokens"],
        "new tokens": usage["new_tokens"],
        "s compressing": f"{timings.get('compress', 0.0):.2f}",
        "s to the first token": f"{timings.get('first_token', 0.0):.2f}",
        "s answering": f"{timings.get('answer', 0.0):.2f}",
    }
    parts = [f"<span><b>{value}</b> {name}</span>" for name, value in values.items()]
    opened = f"{event.open_seconds:.1f} s"
    if event.reused:
        saving = f"The video was open already: this question saved the {opened} that opening took."
    else:
        saving = f"Opening the video took {opened}; further questions about it save that."
    parts.append(f'<span class="tempo-saved">{saving}</span>')
    parts += [f'<span class="tempo-warning">⚠ {html.escape(w)}</span>' for w in event.answer.warnings]
    return f'<div class="tempo-stats">{"".join(parts)}</div>'


def thumbnails(event: Done, player: str) -> str:
    """The segments that got most tokens (the more relevant of equals), in the order of time."""
    segments = sorted(event.answer.segments, key=lambda s: (-s.tokens, -s.relevance, s.index))
    best = sorted(segments[:MOST_THUMBNAILS], key=lambda s: s.index)
    figures = []
    for segment in best:
        if segment.index >= len(event.thumbnails):
            continue
        image = base64.b64encode(event.thumbnails[segment.index]).decode()
        when = clock(segment.start_seconds)
        figures.append(
            f'<figure class="tempo-seek" data-seconds="{segment.start_seconds:.3f}" '
            f'data-player="{html.escape(player)}" tabindex="0">'
            f'<img alt="the video at {when}" src="data:image/jpeg;base64,{image}"/>'
            f"<figcaption>{when} · {segment.tokens} tokens{weighed(segment, ' · ')}</figcaption></figure>"
        )
    return f'<div class="tempo-strip">{"".join(figures)}</div>' if figures else ""
