#!/usr/bin/env bash
# The commands that made the models that ship (docs/models.md), from the reference data in ../shared. The same commands go
# on where they were stopped. On the machine of docs/models.md they take about two hours.
set -euo pipefail
cd "$(dirname "$0")/.."
data=../shared/data

# a fifth of loc_full is held out of all training
mkdir -p loc_full
ln -sfn "$PWD/$data/ilsvrc/loc_full/images" loc_full/images
python scripts/split_coco.py $data/ilsvrc/loc_full/annotations.json \
    --train loc_full/train.json --held-out loc_full/held_out.json

python -m proposals.extract $data/voc2012/images $data/coco2017/images loc_full/images --proposals ss --out proposals.parquet

# six members: the first one, and five that share its layers up to Mixed_7b
python -m detector.train finetune --config configs/shipped_member.toml --out runs/0 cache=runs/features
for seed in 1 2 3 4 5; do
    python -m detector.train finetune --config configs/shipped_member.toml --out "runs/$seed" cache=runs/features \
        kept=Mixed_7b kept_from=runs/0 seed=$seed steps=400 validate_steps=400 \
        unlabelled="$([ $((seed % 2)) = 1 ] && echo 0.3 || echo 0.0)"
done
python -m detector.join runs/0 runs/1 runs/2 runs/3 runs/4 runs/5 --out detector/models/ensemble.safetensors \
    --pictures $data/coco2017/images

# the default: one network, all layers behind Mixed_5d, all data; 2,400 steps (the first 527 of them on a cosine of 3,200)
ln -sfn "$PWD/$data" data
mkdir -p ilsvrc/samples_1000
ln -sfn "$PWD/loc_full" ilsvrc/loc_full
ln -sf "$PWD/$data"/ilsvrc/samples_1000/*.webp ilsvrc/samples_1000/
python scripts/label_list.py ilsvrc/samples_1000 --out ilsvrc/samples_1000/labels.json
python -m proposals.extract data/voc2012 data/coco2017 ilsvrc data/more --proposals both --out all_proposals.parquet
python -m detector.train finetune --config configs/shipped_trunk.toml --out runs/trunk steps=2400 \
    proposals=all_proposals.parquet
# the intervals of the file that ships came from 220 training pictures, these from pictures of COCO
python -m detector.join runs/trunk --out detector/models/inception_v3_det.safetensors --pictures $data/coco2017/images

python -m detector.train multibox --config configs/shipped_multibox.toml --out runs/multibox
cp runs/multibox/multibox.safetensors detector/models/
