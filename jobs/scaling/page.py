"""The page of a study: tables, and figures drawn by gnuplot as SVG."""

import html
import shutil
import subprocess

STYLE = """body{font:15px/1.45 sans-serif;max-width:80em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0;font-size:13px}td,th{padding:.2em .6em;text-align:right;
border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}
figure{display:inline-block;margin:.3em}pre{background:#f4f4f4;padding:.8em;overflow-x:auto}
.bad{color:#a00;font-weight:bold}"""


def plot(title, x_title, y_title, series, logarithmic=False, bars=False,
         key="top left"):
    """One figure as SVG text. `series`: name to a list of (x, y[, low, high])."""
    if shutil.which("gnuplot") is None:
        return "<p>gnuplot is not installed: no figure</p>"
    lines = ["set terminal svg size 460,320 font 'sans,11' background 'white'", "set output",
             f"set title '{title}'", f"set xlabel '{x_title}'", f"set ylabel '{y_title}'",
             f"set key {key}", "set grid ytics lc rgb '#dddddd'", "set yrange [0:*]"]
    plots, data = [], []
    for number, (name, points) in enumerate(series.items()):
        block = f"$data{number} << EOD\n"
        block += "\n".join(" ".join(str(value) for value in point) for point in points)
        data.append(block + "\nEOD")
        shown = name.replace("_", " ").replace("'", "")
        if bars:
            plots.append(f"$data{number} using 2:xtic(1) title '{shown}'")
        elif name.startswith("ideal") or name.startswith("model"):
            plots.append(f"$data{number} using 1:2 with lines dt 2 title '{shown}'")
        elif points and len(points[0]) == 4:
            plots.append(f"$data{number} using 1:2:3:4 with yerrorlines pt 7 ps 0.5 "
                         f"title '{shown}'")
        else:
            plots.append(f"$data{number} using 1:2 with linespoints pt 7 ps 0.5 title '{shown}'")
    if not bars:  # ranks grow by factors
        ranks = sorted({point[0] for points in series.values() for point in points})
        lines += ["set logscale x 2", f"set xtics ({', '.join(map(str, ranks))})"]
    if logarithmic:
        lines += ["unset yrange", "set logscale y 2"]
    if bars:
        lines += ["set style data histograms", "set style histogram rowstacked",
                  "set style fill solid 0.8 border -1", "set boxwidth 0.6",
                  "set key outside right"]
    script = "\n".join([*data, *lines, "plot " + ", ".join(plots)])
    done = subprocess.run(["gnuplot"], input=script, text=True, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else f"<pre>{html.escape(done.stderr)}</pre>"


def table(header, rows):
    cells = "".join(f"<th>{html.escape(str(name))}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(value))}</td>" for value in row)
                   + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"


def page(title, parts):
    return (f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
            f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>{''.join(parts)}</html>\n")
