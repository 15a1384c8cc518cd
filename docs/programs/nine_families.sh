#!/bin/sh
# The runs of docs/nine_families.md: nine families, eight minutes each, on one machine, one after the other.
# All see the 60,000 training pictures of Fashion-MNIST, padded to 32×32. Schedules and ProGAN's stages are set to about
# what eight minutes on 2 CPU cores reach. Everything else is as in the config.
set -e

fit() {
    config=$1
    shift
    python main.py fit --config "configs/${config}_fashion_mnist.yaml" \
        --data.excerpt false --data.resolution 32 --budget.kimg null --budget.hours 0.13333 \
        --quality.num_samples 512 --run.root runs/nine --run.wandb off "$@"
}

fit dcgan --quality.every_kimg 60 --samples.every_kimg 30
fit progan --model.stable_kimg '[10, 10, 15]' --model.fade_kimg '[10, 15, 20]' \
    --quality.every_kimg 25 --samples.every_kimg 13
fit biggan --quality.every_kimg 45 --samples.every_kimg 23
fit stylegan2 --quality.every_kimg 28 --samples.every_kimg 14
fit r3gan --quality.every_kimg 17 --samples.every_kimg 9
fit vae --model.optimization.lr.kimg 550 \
    --quality.every_kimg 110 --likelihood.every_kimg 110 --samples.every_kimg 55
fit flow_matching --model.attention '[8]' --quality.every_kimg 20 --samples.every_kimg 8
fit glow --model.optimization.lr.kimg 260 \
    --quality.every_kimg 52 --likelihood.every_kimg 52 --samples.every_kimg 26
# A picture takes 1,024 sampling steps here, so quality is measured only at the end, and few grids are drawn.
fit pixelcnn --model.optimization.lr.kimg 44 \
    --quality.every_kimg 1000 --likelihood.every_kimg 22 --likelihood.num_samples 500 --samples.every_kimg 11

# Every run is then measured in the same way.
for family in dcgan progan biggan stylegan2 r3gan vae flow_matching glow pixelcnn; do
    run=runs/nine/${family}_fashion_mnist
    python main.py evaluate --ckpt_path "$run" --metrics frechet precision_recall \
        --num_samples 2000 --reference_samples 10000 --batch_size 500
    python main.py diagnose --ckpt_path "$run" --num_samples 500
done
python main.py evaluate --ckpt_path runs/nine/flow_matching_fashion_mnist \
    --metrics bits_per_dim --likelihood_samples 64 --likelihood_steps 40

python main.py compare runs/nine/* --html runs/nine_families.html --md runs/nine_families.md
