# What dom0 and the VMs have in common. The limit of granted pages is the machine's to set: 64 calls at once need more
# than Linux's default of 1024. The C programs ask about ports in a way that newer kernels allow no guest unless told to.
load_modules() {
    for module in /modules/*.ko; do
        case $module in
        *gntalloc*) insmod "$module" limit=16384 ;;
        *privcmd*) insmod "$module" unrestricted=$([ -d /peer ] && echo 1 || echo 0) ;;
        *brd*) insmod "$module" rd_nr=1 rd_size=1024 ;;
        *) insmod "$module" ;;
        esac || echo "cannot load $module"
    done
}

ms() { awk '{ printf "%d", $1 * 1000 }' /proc/uptime; }

# Interrupts so far without the clock's: what event channels have brought.
interrupts() {
    timers=$(awk '/timer/ { n += $2 } END { print n + 0 }' /proc/interrupts)
    awk -v timers="$timers" '/^intr/ { print $2 - timers }' /proc/stat
}
