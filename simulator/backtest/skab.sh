#!/usr/bin/env bash
# Back-tests the public SKAB recordings through the whole product and scores
# the devices' verdicts with the scorer that comes with the data.
# Usage: skab.sh SWELL-SIM defaults   with the detectors' defaults, and with six
#                                     kinds that compete for each recording
#        skab.sh SWELL-SIM tune       with what `swell-sim tune` chooses without
#                                     labels, and by those of other recordings:
#                                     docs/decisions/0013-chosen-without-labels.md
# $SWELL_DATA names the folder with skab-dev/.
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
all="${groups//,//*,}/*"
from=(--data "$data/data" --time-column datetime --exclude anomaly,changepoint --train-rows 400)
# play NAME FILES OPTIONS… back-tests, and adds its verdicts to NAME.pred.
play() {
  local name=$1 files=$2
  shift 2
  "$sim" backtest "${from[@]}" --files "$files" --out "$work/$name.csv" "$@" | tail -n 1 > "$work/$name.json"
  [ -e "$work/$name.pred" ] || echo file,row,pred > "$work/$name.pred"
  awk -F, 'NR>1{print $1","$2","$4}' "$work/$name.csv" >> "$work/$name.pred"
}
score() { python3 "$data/skab_score.py" --data "$data/data" --pred "$work/$1.pred" --scope "$groups" > "$work/$1.score"; }
# tell TITLE=NAME… prints the scores beside published ones; the last line are all as JSON.
tell() { python3 - "$work" "$@" <<'PY'
import json, sys
out = {}
def line(f1, far, mar, what): print("F1 %.3f  FAR %5.1f %%  MAR %4.1f %%  %s" % (f1, far, mar, what))
for arg in sys.argv[2:]:
    title, name = arg.rsplit("=", 1)
    o = json.load(open(f"{sys.argv[1]}/{name}.score"))["outlier"]
    f = {"f1": round(o["F1"], 3), "far": round(o["FAR"], 1), "mar": round(o["MAR"], 1)}
    line(*f.values(), title)
    out.update({**f, "chosen": "with labels in sight"} if name == "defaults" else {name: f})
for f in [(.811, 12.7, 24.3, "Conv-AE"), (.779, 34.5, 17.3, "LSTM-AE"), (.757, 29.3, 23.8, "T2+Q")]:
    line(*f[:3], "published on the same rows: " + f[3])
line(.698, 100, 0, "always anomalous")
print(json.dumps(out))
PY
}
# choices FILE prints, from the JSON of a tune, a line for each: files, kinds and settings.
choices() { python3 - "$1" "$all" <<'PY'
import json, sys
c = json.loads(open(sys.argv[1]).read().splitlines()[-1])
for h in c.get("held_out", {}).get("choices") or [{**c, "recordings": [sys.argv[2]]}]:
    print(",".join(h["recordings"]), ",".join(h["kinds"]), json.dumps(h["fit"], separators=(",", ":")))
PY
}
# tuned NAME OPTIONS… chooses, and plays each choice on the recordings that had no say in it.
tuned() {
  local name=$1 files kinds fit
  shift
  "$sim" tune "${from[@]}" --files "$all" --max-false-alarms 0.22 "$@" > "$work/$name.out"
  sed '$d' "$work/$name.out"
  while read -r files kinds fit; do play "$name" "$files" --kinds "$kinds" --fit "$fit"; done < <(choices "$work/$name.out")
  score "$name"
}
case ${2:-defaults} in
defaults)
  play defaults "$all"
  play six_compete "$all" --kinds pca,dense-ae,conv-ae,forecast,random-neighbour,forest
  score defaults
  score six_compete
  tell "defaults, chosen on these recordings with their labels in sight=defaults" "six kinds compete for each recording, by simulated faults=six_compete"
  ;;
tune)
  tuned without_labels --rows 400 --train-rows 200 --piece-rows 400
  tuned labels_of_others --by-labels --aim f1
  tell "chosen without labels=without_labels" "chosen for each recording by the labels of the others=labels_of_others"
  ;;
*)
  echo "$0: say defaults or tune" >&2
  exit 2
  ;;
esac
