# One machine of the cluster, from the inside: run as the first process of namespaces of its own (processes, mounts, IPC, name).
# $1: its name. $2: the folder that both machines see, with the files the cluster is set up with.
# Everything a machine keeps for itself is in memory, so nothing of this one is in the way of the other one or of the host.
set -e
hostname "$1"
mount -t tmpfs none /run
mkdir -p /run/shared /run/lock /run/tgtd /run/resource-agents
mount --bind "$2" /run/shared
for folder in /var/lib/pacemaker /var/lib/corosync /var/log /etc/corosync /dev/shm /tmp; do
    mount -t tmpfs none "$folder"
done
chmod 1777 /dev/shm /tmp
for folder in blackbox cib cores pengine; do
    install -d -m 750 -o hacluster -g haclient "/var/lib/pacemaker/$folder"
done
install -d -m 770 -o hacluster -g haclient /var/log/pacemaker
sed "s/@NAME@/$1/" /run/shared/corosync.conf >/etc/corosync/corosync.conf
export PCMK_logfile="/run/shared/$1.pacemaker.log" PCMK_logfacility=none

# What a distribution starts at boot, in its order.
tgtd -f &
corosync -f &
until corosync-cmapctl >/dev/null 2>&1; do sleep 0.1; done
pacemakerd -f &
wait
