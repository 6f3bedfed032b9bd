#!/usr/bin/env bash
# Back-tests the public SKAB recordings through the whole product and scores
# the devices' verdicts with the scorer that comes with the data.
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
# play NAME OPTIONS… back-tests, and writes NAME.json and the score in NAME.score.
play() {
  local name=$1
  shift
  "$sim" backtest --data "$data/data" --files "${groups//,//*,}/*" --time-column datetime --exclude anomaly,changepoint \
    --train-rows 400 --out "$work/$name.csv" "$@" | tail -n 1 > "$work/$name.json"
  awk -F, 'NR==1{print "file,row,pred"} NR>1{print $1","$2","$4}' "$work/$name.csv" > "$work/$name.pred"
  python3 "$data/skab_score.py" --data "$data/data" --pred "$work/$name.pred" --scope "$groups" > "$work/$name.score"
}
play run
play six --kinds pca,dense-ae,conv-ae,forecast,random-neighbour,forest
python3 -c '
import json, sys
r = json.load(open(sys.argv[1]))
print("%d files with %d rows: %d verdicts, %d of them anomalies; %d of %d labelled events found; %.0f s" % (
    r["files"], r["rows"], r["verdicts"], r["flagged"], r["labels"]["events_found"], r["labels"]["events"], r["seconds"]))' "$work/run.json"
python3 - "$work/run.score" "$work/six.score" <<'PY'
import json, sys
run, six = (json.load(open(p))["outlier"] for p in sys.argv[1:])
print("the defaults of the detectors were chosen on these recordings, with their labels in sight: this is no held-out result")
print("published on the same rows: Conv-AE .811/12.7/24.3, T2+Q .757/29.3/23.8, always anomalous F1 .698")
print("six kinds compete for each recording, by simulated faults alone: F1 %.3f, FAR %.1f %%, MAR %.1f %%" % (six["F1"], six["FAR"], six["MAR"]))
print(json.dumps({"f1": round(run["F1"], 3), "far": round(run["FAR"], 1), "mar": round(run["MAR"], 1)}))
PY
