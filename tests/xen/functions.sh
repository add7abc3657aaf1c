# What dom0 and the VMs have in common. The limit of granted pages is the machine's to set: 64 calls at once need more
# than Linux's default of 1024.
load_modules() {
    for module in /modules/*.ko; do
        case $module in
        *gntalloc*) insmod "$module" limit=16384 ;;
        *brd*) insmod "$module" rd_nr=1 rd_size=1024 ;;
        *) insmod "$module" ;;
        esac || echo "cannot load $module"
    done
}
