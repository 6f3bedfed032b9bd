#!/usr/bin/env bash
# Back-tests the public SKAB recordings through the whole product and scores
# the devices' verdicts with the scorer that comes with the data: with the
# detectors' defaults, with six kinds that compete for each recording, and with
# one kind and settings that `swell-sim tune` chooses without labels, by the rule
# in docs/decisions/0013-chosen-without-labels.md.
# Usage: skab.sh SWELL-SIM   ($SWELL_DATA names the folder with skab-dev/)
set -euo pipefail
sim=$1
data=${SWELL_DATA:-../shared/data}/skab-dev
if [ ! -e "$data/skab_score.py" ]; then
  echo "the SKAB recordings are not at $data: set SWELL_DATA to the folder that holds skab-dev/" >&2
  exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Every labelled group that is there; anomaly-free has no labels.
groups=$(cd "$data/data" && ls -d valve1 valve2 other 2>/dev/null | paste -sd, || true)
from=(--data "$data/data" --files "${groups//,//*,}/*" --time-column datetime --exclude anomaly,changepoint)
# play NAME OPTIONS… back-tests, and writes NAME.json and the score in NAME.score.
play() {
  local name=$1
  shift
  "$sim" backtest "${from[@]}" --train-rows 400 --out "$work/$name.csv" "$@" | tail -n 1 > "$work/$name.json"
  awk -F, 'NR==1{print "file,row,pred"} NR>1{print $1","$2","$4}' "$work/$name.csv" > "$work/$name.pred"
  python3 "$data/skab_score.py" --data "$data/data" --pred "$work/$name.pred" --scope "$groups" > "$work/$name.score"
}
play defaults
play six --kinds pca,dense-ae,conv-ae,forecast,random-neighbour,forest
"$sim" tune "${from[@]}" --rows 400 --train-rows 200 --piece-rows 400 --max-false-alarms 0.22 | tee "$work/tune.out" | sed '$d'
tail -n 1 "$work/tune.out" > "$work/choice.json"
# of FIELD prints it, from the choice.
of() { python3 -c 'import json, sys; v = json.load(open(sys.argv[1]))[sys.argv[2]]; print(",".join(v) if isinstance(v, list) else json.dumps(v))' "$work/choice.json" "$1"; }
play chosen --kinds "$(of kinds)" --fit "$(of fit)"
python3 - "$work" <<'PY'
import json, sys
def load(name): return json.load(open(f"{sys.argv[1]}/{name}"))
def figures(name):
    o = load(name + ".score")["outlier"]
    return {"f1": round(o["F1"], 3), "far": round(o["FAR"], 1), "mar": round(o["MAR"], 1)}
r, choice = load("defaults.json"), load("choice.json")
print("%d files with %d rows: %d verdicts; %d of %d labelled events found with the defaults" % (
    r["files"], r["rows"], r["verdicts"], r["labels"]["events_found"], r["labels"]["events"]))
rows = [
    ("defaults, chosen on these recordings with their labels in sight", figures("defaults")),
    ("six kinds compete for each recording, by simulated faults", figures("six")),
    ("%s %s for all, chosen without labels" % (choice["kinds"][0], json.dumps({k: v for k, v in choice["fit"].items() if k != "maxGap"})), figures("chosen")),
    ("published on the same rows: Conv-AE", {"f1": 0.811, "far": 12.7, "mar": 24.3}),
    ("published on the same rows: LSTM-AE", {"f1": 0.779, "far": 34.5, "mar": 17.3}),
    ("published on the same rows: T2+Q", {"f1": 0.757, "far": 29.3, "mar": 23.8}),
    ("always anomalous", {"f1": 0.698, "far": 100, "mar": 0}),
]
for what, f in rows:
    print("F1 %.3f  FAR %5.1f %%  MAR %4.1f %%  %s" % (f["f1"], f["far"], f["mar"], what))
print(json.dumps({**figures("defaults"), "chosen": "with labels in sight", "six_compete": figures("six"), "chosen_without_labels": figures("chosen")}))
PY
