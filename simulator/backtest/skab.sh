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
"$sim" backtest --data "$data/data" --files "${groups//,//*,}/*" --time-column datetime --exclude anomaly,changepoint \
  --train-rows 400 --out "$work/verdicts.csv" | tail -n 1 > "$work/run.json"
python3 -c '
import json, sys
r = json.load(open(sys.argv[1]))
print("%d files with %d rows: %d verdicts, %d of them anomalies; %d of %d labelled events found; %.0f s" % (
    r["files"], r["rows"], r["verdicts"], r["flagged"], r["labels"]["events_found"], r["labels"]["events"], r["seconds"]))' "$work/run.json"
awk -F, 'NR==1{print "file,row,pred"} NR>1{print $1","$2","$4}' "$work/verdicts.csv" > "$work/pred.csv"
python3 "$data/skab_score.py" --data "$data/data" --pred "$work/pred.csv" --scope "$groups" |
  python3 -c '
import json, sys
o = json.load(sys.stdin)["outlier"]
print("the defaults of the detectors were chosen on these recordings: this is no held-out result")
print("published on the same rows: Conv-AE .811/12.7/24.3, T2+Q .757/29.3/23.8, always anomalous F1 .698")
print(json.dumps({"f1": round(o["F1"], 3), "far": round(o["FAR"], 1), "mar": round(o["MAR"], 1)}))'
