# Whether the end of a domain is noticed at the other ends of its channels, sourced by scenario.sh.

# Within this many milliseconds after its last byte came. The clocks of domains are seconds apart, and `xl destroy` has
# much to do before and after the domain stands still, so each domain that stays has a channel that is never idle.
END_MS=${END_MS:-1500}

# One more VM, to be destroyed.
new_vm3() {
    create_vm vm3
    VM3=$(xl domid vm3) vm3_jobs=0
    tries=300
    until xenstore-exists "/local/domain/$VM3/data/lab/up" || [ $tries = 0 ]; do tries=$((tries - 1)) && usleep 100000; done
    [ $tries -gt 0 ]
    result "one more VM, domain $VM3" $?
}

# What the ends that stay have said so far: those of VM1 on its console, dom0's in files.
said() { cat /var/log/xen/console/guest-vm1.log /run/held.* 2>/dev/null | tr -d '\r'; }

# pair KEEPER PORT WHAT ROLE THEIRS: KEEPER (vm1 or dom0) does WHAT-ROLE on that port, VM3 runs THEIRS.
pair() {
    case $1 in
    vm1) start vm1 "xen_peer $3-$4 $VM3 $2" ;;
    dom0) xen_peer "$3-$4" "$VM3" "$2" >"/run/held.$2" 2>&1 & ;;
    esac
    start vm3 "$5"
    pairs="$pairs $2"
}

# at WHAT PORTS...: the latest time at which that was, in milliseconds; waits for it.
at() {
    what=$1 tries=100
    shift
    ports=$(echo "$@" | tr ' ' '|')
    until [ "$(said | grep -cE "^$what: ($ports) at ")" -ge $# ] || [ $tries = 0 ]; do tries=$((tries - 1)) && usleep 100000; done
    said | sed -nE "s/^$what: ($ports) at //p" | sort -n | tail -n 1
}

# noticed PORT LIMIT NAME: how long after the last sign of life, at `alive`, that end noticed.
noticed() {
    then=$(at "peer is gone" "$1")
    noticed_of=$((noticed_of + 1))
    [ -n "$then" ] && [ -n "$alive" ] || { result "$3: not noticed" 1 || return; }
    [ $((then - alive)) -le "$2" ]
    result "$3: noticed after $((then - alive)) ms" $? && seen=$((seen + 1))
}

# destroy_one BASE HOW: a VM with channels in both roles, idle and busy, to VM1 and to dom0, on ports from BASE on.
destroy_one() {
    new_vm3 || return
    pairs="" base=$1
    pair vm1 $base hold serve "xen_peer hold-join $VM1 $base"
    pair vm1 $((base + 1)) hold join "xen_peer hold-serve $VM1 $((base + 1))"
    pair vm1 $((base + 2)) flood serve "xen_peer flood-join $VM1 $((base + 2))"
    pair vm1 $((base + 3)) flood join "xen_peer flood-serve $VM1 $((base + 3))"
    pair dom0 $((base + 4)) flood serve "xen_peer flood-join 0 $((base + 4))"
    pair dom0 $((base + 5)) hold join "xen_peer hold-serve 0 $((base + 5))"
    if [ -e /test/peer ]; then
        pair vm1 $((base + 6)) hold join "peer serve $VM1 $((base + 6)) 4096 4096"
        pair vm1 $((base + 7)) hold serve "peer join $VM1 $((base + 7)) 1 1"
    fi
    for port in $pairs; do
        tries=200
        until said | grep -q "^holding $port\$" || [ $tries = 0 ]; do tries=$((tries - 1)) && usleep 100000; done
        [ $tries -gt 0 ] || result "channel $port" 1 || return
    done
    sleep 1
    since=$(ms)
    xl destroy vm3
    echo "LAB   xl destroy took $(($(ms) - since)) ms; $(xl list | awk 'NR > 2 { printf "%s %s %s, ", $1, $2, $5 }')"
    alive=$(at "last heard" $((base + 2)) $((base + 3)))
    noticed $base $END_MS "$2, VM1 serves, idle"
    noticed $((base + 1)) $END_MS "$2, VM1 joined, idle"
    noticed $((base + 2)) $END_MS "$2, VM1 serves, busy"
    noticed $((base + 3)) $END_MS "$2, VM1 joined, busy"
    if [ -e /test/peer ]; then
        noticed $((base + 6)) $END_MS "$2, VM1 joined libxenvchan, idle"
        # A client of upstream's keeps no key: the hypervisor is asked, which knows the domain while VM1 maps anything of it.
        noticed $((base + 7)) 5000 "$2, VM1 serves libxenvchan, idle"
    fi
    alive=$(at "last heard" $((base + 4)))
    noticed $((base + 4)) $END_MS "dom0 serves, busy"
    noticed $((base + 5)) $END_MS "dom0 joined, idle"
}

# ENDS: how many VMs are destroyed, in turn without and with an agent in VM1 that watches for all its channels.
ends() {
    seen=0 noticed_of=0
    for round in $(seq "${ENDS:-2}"); do
        if [ $((round % 2)) = 0 ]; then
            start vm1 'qrexec-agent >/tmp/agent.ends 2>&1 & echo $! >/tmp/agent.ends.pid'
            run vm1 20 'until [ -S /run/qubes/qrexec-peers ]; do usleep 100000; done'
            destroy_one $((500 + 10 * round)) "an agent watches"
            run vm1 10 'kill $(cat /tmp/agent.ends.pid); cat /tmp/agent.ends; rm -f /run/qubes/*'
        else
            destroy_one $((500 + 10 * round)) "no agent"
        fi
    done
    echo "LAB   noticed in time: $seen of $noticed_of"
}

# Not part of a boot unless named, like the next: a VM that stands still for half a minute, in which nothing ends.
pauses() {
    [ -S /run/qubes/qrexec.vm2 ] || start_qrexec || return
    start vm1 '(echo before; sleep 50; echo after) | qrexec-client-vm vm2 lab.Echo >/tmp/paused; [ "$(cat /tmp/paused | tr "\n" " ")" = "before after " ]'
    theirs=$started
    start vm2 '(echo before; sleep 15; echo after) | qrexec-client-vm vm1 lab.Echo >/tmp/paused; [ "$(cat /tmp/paused | tr "\n" " ")" = "before after " ]'
    ours=$started
    sleep 5
    xl pause vm2
    sleep 30
    xl unpause vm2
    settle "$theirs" 60
    result "a call into a VM that was paused for 30 s goes on" $?
    settle "$ours" 60
    result "a call out of it, too" $?
    says vm1 20 "qrexec-client-vm vm2 lab.Who" "vm1 calls vm2"
    result "afterwards calls are as before" $?
}

# A VM that is saved and restored is another domain. Its calls end at the other ends. In the VM itself they are told, and its
# agent; but Linux 6.1 has forgotten the event channels and mapped pages of before, and fails (drivers/xen/evtchn.c, xen_gntdev)
# when a process lets go of one, whosever program that is: that is printed and is no failure of this part.
restores() {
    [ -S /run/qubes/qrexec.vm2 ] || start_qrexec || return
    quiet='mkfifo /tmp/never; exec 3<>/tmp/never;'
    for target in vm1 dom0; do
        start vm2 "[ -p /tmp/never ] || $quiet exec 3<>/tmp/never; qrexec-client-vm $target lab.Sum <&3 >/tmp/out.$target 2>/tmp/err.$target; echo \$? >/tmp/end.$target"
        sleep 1
    done
    start vm1 "$quiet qrexec-client-vm vm2 lab.Sum <&3 >/tmp/out.vm2 2>/tmp/err.vm2; echo \$? >/tmp/end.vm2"
    sleep 5
    # Dom0 has less room than the VM has memory, most of which is zeroes.
    mkfifo /tmp/image /tmp/again
    gzip -1 </tmp/image >/tmp/image.gz &
    xl save vm2 /tmp/image >/tmp/xl.said 2>&1
    result "xl save" $? || { cat /tmp/xl.said; return; }
    wait $!
    run vm1 30 'tries=200; until [ -e /tmp/end.vm2 ] || [ $tries = 0 ]; do tries=$((tries - 1)); usleep 100000; done; cat /tmp/err.vm2 /tmp/end.vm2; [ "$(cat /tmp/end.vm2)" = 255 ]'
    result "the call into it ends at the other end" $?
    tries=50
    until grep -q "vm2 -> dom0: lab.Sum.*ended after" /var/log/vm2.log || [ $tries = 0 ]; do tries=$((tries - 1)) && usleep 200000; done
    [ $tries -gt 0 ] && grep -q "is gone, and so is its daemon" /var/log/vm2.log
    result "its call of dom0 ends, and its daemon" $?
    echo "LAB   the image has $(wc -c </tmp/image.gz) bytes"
    gunzip -c /tmp/image.gz >/tmp/again &
    xl restore /tmp/again >/tmp/xl.said 2>&1
    result "xl restore" $? || { cat /tmp/xl.said; return; }
    VM2=$(xl domid vm2)
    run vm2 60 'tries=100; until [ -e /tmp/end.vm1 ] && [ -e /tmp/end.dom0 ] || [ $tries = 0 ]; do tries=$((tries - 1)); usleep 100000; done;
        tail /tmp/err.* /tmp/end.*; tail -n 2 /tmp/agent.log; [ $(cat /tmp/err.vm1 /tmp/err.dom0 /tmp/agent.log | grep -c "restored from a saved one") -ge 3 ]'
    told=$?
    if grep -qE 'kernel BUG at drivers/xen/evtchn.c|RIP: .*xen_gntdev' /var/log/xen/console/guest-vm2.log; then
        echo "LAB   the kernel of the restored VM failed when a process let go of what was before; what the VM's processes said: status $told"
        excused=vm2
    else
        result "both calls of the restored VM and its agent end and say why" $told
    fi
}
