#!/bin/busybox sh
# The first process of the VM: brings up what a small board has, says that it is ready, and leaves the rest to busybox init.
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,ptmxmode=666 pts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=1777 tmp /tmp
hostname edgekit-vm
while read -r module; do insmod "/lib/modules/$module"; done </lib/modules/order

ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2

# What a board keeps on its card lies on a disk, not in memory: it is gone with the VM.
mount -t ext4 -o noatime,noinit_itable /dev/vda /disk
mkdir -p /disk/home/pi/.ssh /home
cp /etc/authorized_keys /disk/home/pi/.ssh/
chmod 700 /disk/home/pi /disk/home/pi/.ssh
chown -R 1000:1000 /disk/home/pi
mount -o bind /disk/home /home

# A key alone opens it.
dropbear -s -g -r /etc/dropbear_host_key -p 22 -W 1048576 -I 0 -P /dev/null
echo EDGEKIT-VM-READY
exec /bin/busybox init
