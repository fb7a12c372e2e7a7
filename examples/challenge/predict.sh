#!/bin/sh
# One call of the challenge: every case of the inputs becomes a mask of the same name, in a sixth of 90 seconds a class.
set -eu
exec gstk infer "${GSTK_INPUTS:-/workspace/inputs}" --out "${GSTK_OUTPUTS:-/workspace/outputs}" --name '{stem}' \
	--bundle "${GSTK_BUNDLE:-tiny}" --budget "${GSTK_BUDGET:-90}" --calls "${GSTK_CALLS:-6}" --overwrite "$@"
