#!/usr/bin/env bash
# Makes the three images out of this machine's own Debian or Ubuntu, its PyTorch, and a folder of Python packages.
#
#   images.sh PACKAGES IMAGE_FOLDER EDGE_NAME API_NAME WORKER_NAME
#
# For a machine with a GPU and no network; the images that the role builds come from Debian and the locks instead.
set -euo pipefail
packages=$1 folder=$2
stage=$(mktemp -d /var/tmp/vicuna-images.XXXXXX)
trap 'rm -rf "$stage"' EXIT
torch=$(PYTHONPATH='' python3 -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])')

# Hard links: nothing is copied before tar reads it.
mkdir -p "$stage"/root/{usr,opt/torch,etc,tmp,proc,sys,dev,run,var/tmp,opt/vicuna}
cp -al /usr/bin /usr/sbin /usr/lib /usr/lib64 "$stage/root/usr/"
cp -a /bin /sbin /lib /lib64 "$stage/root/"
cp -a /etc/ld.so.conf /etc/ld.so.conf.d /etc/alternatives /etc/passwd /etc/group "$stage/root/etc/"
# PyTorch asks for the name of the user that it runs as.
echo "vicuna:x:10001:10001::/tmp:/usr/sbin/nologin" >>"$stage/root/etc/passwd"
rm -rf "$stage"/root/usr/lib/{gcc,llvm*,debug,firmware,modules} "$stage"/root/usr/lib/x86_64-linux-gnu/{libcudnn*,libnccl*}
for name in torch torchgen functorch nvidia triton numpy numpy.libs sympy mpmath networkx cuda setuptools; do
  [ ! -e "$torch/$name" ] || cp -al "$torch/$name" "$stage/root/opt/torch/"
done
for info in torch numpy triton nvidia; do
  find "$torch" -maxdepth 1 -name "$info*.dist-info" -exec cp -al {} "$stage/root/opt/torch/" \;
done
cp -a "$packages" "$stage/root/opt/site"
cp "$folder/healthcheck.py" "$stage/root/opt/vicuna/"
tar -C "$stage/root" -c . | docker import - vicuna-gpu-test:base >/dev/null

python=$'FROM vicuna-gpu-test:base\nENV PYTHONUNBUFFERED=1 LOGDIR="" HOME=/tmp HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
ENV PYTHONPATH=/opt/site:/opt/torch PYTHONDONTWRITEBYTECODE=1\nWORKDIR /tmp\nUSER 10001:10001\nENTRYPOINT ["/usr/bin/python3", "-m"]\n'
edge=$'FROM vicuna-gpu-test:base\nUSER 10001:10001\nSTOPSIGNAL SIGUSR1\nENTRYPOINT ["haproxy", "-W", "-db", "-f", "/etc/vicuna/haproxy.cfg"]\n'
docker build --quiet --tag "$3" - <<<"$edge"
docker build --quiet --tag "$4" - <<<"$python"
docker build --quiet --tag "$5" - <<<"$python"
