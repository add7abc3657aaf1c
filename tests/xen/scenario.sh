#!/bin/sh
# What is tried in a booted machine: run in dom0, which has the VMs do their part through `start` and `settle`.
failed=""
. /etc/functions.sh
. /vms.sh
. /ends.sh

VM1=$(xl domid vm1) VM2=$(xl domid vm2)
export DOMID=0
domain() { case $1 in vm1) echo "$VM1" ;; vm2) echo "$VM2" ;; vm3) echo "$VM3" ;; esac; }
uuid() { echo "00000000-0000-0000-0000-00000000000${1#vm}"; }

uptime_s() { cut -d. -f1 /proc/uptime; }

# start VM COMMAND: begins a command in a VM, behind what is in `prefix`; `started` names it for settle.
vm1_jobs=0 vm2_jobs=0 prefix=""
start() {
    eval "job=\$((${1}_jobs + 1)); ${1}_jobs=\$job"
    started=$1:$job
    # A key holds no line ends: commands of several lines end each with a semicolon.
    xenstore-write "/local/domain/$(domain "$1")/data/lab/job/$job" "$(echo "$prefix $2" | tr '\n' ' ')"
}

# settle JOB SECONDS: waits for its end and returns its exit status; 99 when it took longer.
settle() {
    key=/local/domain/$(domain "${1%:*}")/data/lab/done/${1#*:}
    end=$(($(uptime_s) + $2))
    while :; do
        status=$(xenstore-read "$key" 2>/dev/null) && return "$status"
        [ "$(uptime_s)" -lt $end ] || break
        # Looking again and again would cost what is measured here.
        timeout 1 xenstore-watch -n 2 "$key" >/dev/null 2>&1
    done
    echo "LAB   $1 is not done after $2 s"
    return 99
}

# run VM SECONDS COMMAND
run() {
    start "$1" "$3"
    settle "$started" "$2"
}

# result NAME STATUS [WANTED]: one line, and what failed is remembered.
result() {
    if [ "$2" = "${3:-0}" ]; then
        echo "LAB ok      $(cut -d' ' -f1 /proc/uptime) $1"
    else
        echo "LAB FAILED  $(cut -d' ' -f1 /proc/uptime) $1: status $2"
        failed="$failed [$1]"
        return 1
    fi
}

# both NAME SECONDS VM1-COMMAND VM2-COMMAND: at the same time, both must succeed.
both() {
    start vm1 "$3"
    first=$started
    start vm2 "$4"
    second=$started
    settle "$first" "$2"
    one=$?
    settle "$second" "$2"
    result "$1" "$one/$?" 0/0
}

for vm in vm1 vm2; do
    until xenstore-exists "/local/domain/$(domain $vm)/data/lab/up"; do usleep 200000; done
done
echo "LAB VMs up, $(cut -d' ' -f1 /proc/uptime) s"

rings() {
    both "rings of every size, server first" 60 "xen_peer orders-serve $VM2 100" "xen_peer orders-join $VM1 100"
    start vm1 "xen_peer join $VM2 150 100000 100000"
    client=$started
    usleep 700000
    run vm2 30 "xen_peer serve $VM1 150 65536 65536"
    server=$?
    settle "$client" 30
    result "the client comes first" "$server/$?" 0/0
    xen_peer serve "$VM1" 160 65536 65536 &
    run vm1 30 "xen_peer join 0 160 300000 300000"
    one=$?
    wait $!
    result "dom0 serves a VM" "$one/$?" 0/0
    start vm1 "xen_peer serve 0 161 65536 65536"
    xen_peer join "$VM1" 161 300000 300000
    one=$?
    settle "$started" 30
    result "a VM serves dom0" "$one/$?" 0/0
    both "a port's second channel has rings of its own" 60 "xen_peer turns-serve $VM2 165" "xen_peer turns-join $VM1 165"
    both "readv into mapped, writev from granted pages" 60 "xen_peer sink-serve $VM2 170 65536" "xen_peer source-join $VM1 170 32"
    both "readv into granted, writev from mapped pages" 60 "xen_peer source-serve $VM2 171 65536 32" "xen_peer sink-join $VM1 171"
}

# Not a test but an inquiry: the answers are in docs/xen.md.
inplace() {
    both "trials of transfers in place" 60 "xen_inplace serve $VM2 172" "xen_inplace join $VM1 172"
}

# Four pairings in one boot, so that their figures can be compared.
peers() {
    bulk="8388608 8388608"
    both "bulk: ours to ours" 60 "xen_peer serve $VM2 200 65536 65536" "xen_peer join $VM1 200 $bulk"
    [ -e /test/peer ] || return
    both "bulk: libxenvchan to libxenvchan" 90 "peer serve $VM2 201 65536 65536" "peer join $VM1 201 $bulk"
    both "bulk: we join libxenvchan" 60 "peer serve $VM2 202 65536 65536" "xen_peer join $VM1 202 $bulk"
    both "bulk: libxenvchan joins us" 60 "xen_peer serve $VM2 203 65536 65536" "peer join $VM1 203 $bulk"
    library=QREXEC_TRANSPORT=libxenvchan
    both "bulk: the transport libxenvchan serves" 60 "$library xen_peer serve $VM2 204 65536 65536" "xen_peer join $VM1 204 $bulk"
    both "bulk: the transport libxenvchan joins" 60 "xen_peer serve $VM2 205 65536 65536" "$library xen_peer join $VM1 205 $bulk"
    port=210
    # A C server that is asked for 1024 and 1024 gives 2048 the other way, and for 1 and 4096 it gives 2048 and 4096.
    for sizes in "1024 1024" "1 4096" "1024 2048" "2048 1024" "2000 4096" "4096 1048576" "1048576 1024"; do
        both "sizes $sizes: we join libxenvchan" 30 "peer serve $VM2 $port $sizes" "xen_peer join $VM1 $port 100000 100000"
        port=$((port + 1))
        both "sizes $sizes: libxenvchan joins us" 30 "xen_peer serve $VM2 $port $sizes" "peer join $VM1 $port 100000 100000"
        port=$((port + 1))
    done
}

# How many channels the VMs have said that they hold.
holding() { cat /var/log/xen/console/guest-vm[12].log | grep -c holding; }

# A peer that is killed, in either role.
kills() {
    held=$(holding) tries=150
    for role in serve join; do
        other=join
        [ $role = join ] && other=serve
        start vm1 "xen_peer hold-$role $VM2 300 & echo \$! >/tmp/doomed; wait \$!; true"
        start vm2 "xen_peer hold-$other $VM1 300"
        holder=$started
        held=$((held + 2))
        until [ "$(holding)" -ge $held ] || [ $tries = 0 ]; do
            tries=$((tries - 1))
            usleep 200000
        done
        run vm1 10 'kill -9 $(cat /tmp/doomed)'
        settle "$holder" 3
        result "kill -9 of the side that does $role is seen" $?
    done
}

# The other layer of devices, Xen's own libraries, does what the plain ioctls do: the parts that say so, on both sides and
# in dom0, and then with one layer at either end.
devices() {
    prefix="export QREXEC_XEN_DEVICES=libxen;"
    export QREXEC_XEN_DEVICES=libxen
    rings
    kills
    CHANNELS=${DEVICE_CHANNELS:-100} churn
    prefix="" bulk="8388608 8388608"
    unset QREXEC_XEN_DEVICES
    library=QREXEC_XEN_DEVICES=libxen
    both "libxen serves the plain ioctls" 60 "$library xen_peer serve $VM2 310 65536 65536" "xen_peer join $VM1 310 $bulk"
    both "libxen joins the plain ioctls" 60 "xen_peer serve $VM2 311 65536 65536" "$library xen_peer join $VM1 311 $bulk"
    if [ -e /test/peer ]; then
        both "libxen serves libxenvchan" 60 "$library xen_peer serve $VM2 312 65536 65536" "peer join $VM1 312 $bulk"
        both "libxen joins libxenvchan" 60 "peer serve $VM2 313 65536 65536" "$library xen_peer join $VM1 313 $bulk"
    fi
    one_line "a layer that there is not" "QREXEC_XEN_DEVICES=libxn" "expected ioctl or libxen"
    one_line "a library that is missing" "mv /lib/libxenevtchn.so.1 /lib/away; QREXEC_XEN_DEVICES=libxen" "libxenevtchn.so" \
        "mv /lib/away /lib/libxenevtchn.so.1"
}

# one_line NAME SETTING WORDS [REPAIR]: with that, a channel fails with one line that says WORDS.
one_line() {
    run vm1 20 "$2 xen_peer serve $VM2 314 1 1 >/tmp/said 2>&1; status=\$?; ${4:-true};
        cat /tmp/said; [ \$status -ne 0 ] && [ \$(wc -l </tmp/said) = 1 ] && grep -q '$3' /tmp/said"
    result "$1: one line" $?
}

# Grants of VM1 that somebody has mapped, as the hypervisor prints them.
mapped() {
    xl dmesg -c >/dev/null
    xl debug-keys g
    xl dmesg | awk -v vm="d$VM1 " '/grant-table for/ { on = index($0, vm) } on && /\[0x/ { n++ } END { print n + 0 }'
}

# Very many channels, four at a time, of which nothing may remain: no event channel, no mapping, no key. A hundred pages may
# be granted at once, so that a leak of those would soon end it.
churn() {
    each=$((${CHANNELS:-600} / 4))
    before="$(lsevtchn "$VM1" | wc -l) $(lsevtchn "$VM2" | wc -l) $(mapped)"
    since=$(uptime_s)
    limit=/sys/module/xen_gntalloc/parameters/limit
    four='for port in 301 302 303 304; do'
    both "$((each * 4)) channels" $((200 + each / 2)) \
        "echo 100 >$limit; rm -f /tmp/bad; $four xen_peer churn-serve $VM2 \$port $each || touch /tmp/bad & done; wait; echo 16384 >$limit; [ ! -e /tmp/bad ]" \
        "rm -f /tmp/bad; $four xen_peer churn-join $VM1 \$port $each || touch /tmp/bad & done; wait; [ ! -e /tmp/bad ]"
    echo "LAB   in $(($(uptime_s) - since)) s"
    after="$(lsevtchn "$VM1" | wc -l) $(lsevtchn "$VM2" | wc -l) $(mapped)"
    [ "$before" = "$after" ]
    result "event channels of both and mapped grants: $before before, $after after" $?
    left=$(xenstore-ls -f "/local/domain/$VM1/data/vchan" | grep -c -e ring-ref -e event-channel)
    result "no key is left" "$left" 0
}

# flow NAME MIB VM1-COMMAND VM2-COMMAND: one way from VM to VM; processor time as Xen counts it, both domains'.
flow() {
    used=$(vcpu "$VM1" "$VM2")
    both "$1" 60 "$3" "$4"
    echo "LAB FLOW $1: $2 MiB, $((($(vcpu "$VM1" "$VM2") - used) / $2)) us of both vCPUs a MiB"
}

# Ours against libxenvchan's own write and read loops, in turn, several times: docs/xen.md says what comes out.
speed() {
    [ -e /test/peer ] || return
    mib=${SPEED_MIB:-8} port=400
    memory=$((mib * 8))
    fill="dd if=/dev/zero bs=65536 count=$((mib << 4)) 2>/dev/null" drain="dd of=/dev/null bs=65536 2>/dev/null"
    for round in $(seq "${SPEED_ROUNDS:-1}"); do
        for ring in 65536 1048576; do
            flow "ours, memory to memory, ring $ring" $memory "xen_flow send $VM2 $port $ring $memory" "xen_flow receive $VM1 $port"
            flow "libxenvchan, memory to memory, ring $ring" $memory "peer source $VM2 $((port + 1)) $ring 65536 $memory" \
                "peer sink $VM1 $((port + 1)) 65536 $memory"
            flow "ours, pipe to pipe, ring $ring" $mib "$fill | xen_flow source $VM2 $((port + 2)) $ring" \
                "xen_flow sink $VM1 $((port + 2)) | $drain"
            flow "libxenvchan, pipe to pipe, ring $ring" $mib "$fill | peer source $VM2 $((port + 3)) $ring 65536 0" \
                "peer sink $VM1 $((port + 3)) 65536 0 | $drain"
            port=$((port + 4))
        done
        flow "ours, pipe to pipe, ring chosen by us" $mib "$fill | xen_flow source $VM2 $port 0" "xen_flow sink $VM1 $port | $drain"
        port=$((port + 1))
    done
    library="QREXEC_TRANSPORT=libxenvchan xen_flow"
    flow "our pump over libxenvchan, pipe to pipe, ring 65536" $mib "$fill | $library source $VM2 $port 65536" \
        "$library sink $VM1 $port | $drain"
}

# Into `events`: interrupts of both VMs so far. (No $(…): jobs are counted in this shell.)
count_events() {
    events=0
    for vm in vm1 vm2; do
        run $vm 30 '. /etc/functions.sh; xenstore-write data/lab/events $(interrupts)' || { result "interrupts of $vm" 1 || return; }
        events=$((events + $(xenstore-read "/local/domain/$(domain $vm)/data/lab/events")))
    done
}

# through NAME FOLDER: one call from VM to VM by the programs of that folder, with its service at the other end.
through() {
    mib=${FIELD_MIB:-32}
    count_events || return
    before=$events used=$(vcpu "$VM1" "$VM2")
    run vm1 60 ". /etc/functions.sh; begun=\$(ms); dd if=/dev/zero bs=65536 count=$((mib << 4)) 2>/dev/null | $2/qrexec-client-vm vm2 lab.Count >/tmp/counted;
        status=\$?; xenstore-write data/lab/took \$((\$(ms) - begun)); [ \$status/\$(cut -d+ -f1 /tmp/counted) = 0/$((mib << 4)) ]"
    status=$?
    used=$(($(vcpu "$VM1" "$VM2") - used))
    result "$mib MiB from VM to VM by $1" $status || return
    count_events || return
    events=$(((events - before) * 10 / mib))
    took=$(xenstore-read "/local/domain/$VM1/data/lab/took")
    echo "LAB FLOW a call, $1: $mib MiB, $((mib * 1000 / took)) MiB/s," \
        "$((used / mib)) us of both vCPUs and $((events / 10)).$((events % 10)) interrupts of both VMs a MiB"
}

# Ends agents and daemons, whoever's they are.
stop_qrexec() {
    for vm in vm1 vm2; do run $vm 10 'kill -9 $(pidof qrexec-agent); rm -f /run/qubes/qrexec-agent*; true'; done
    kill -9 $(pidof qrexec-daemon)
    rm -f /run/qubes/qrexec.*
}

# Calls through our qrexec, and then through the C programs, if there are any: what each costs.
field() {
    [ -x /peer/qrexec-agent ] || { echo "LAB   the C programs: skipped: no peer" && return; }
    [ -x /test/vcpu ] || { echo "LAB   the C programs: skipped: no libxen-dev to count processor time with" && return; }
    [ -S /run/qubes/qrexec.vm2 ] || start_qrexec || return
    for round in $(seq "${FIELD_ROUNDS:-2}"); do through ours /test; done
    stop_qrexec
    for vm in vm1 vm2; do start $vm '/peer/qrexec-agent 2>&1'; done
    for vm in vm1 vm2; do
        # Newer ones must be told the UUID, older ones know no such option.
        for uuid in "-u $(uuid $vm)" ""; do
            /peer/qrexec-daemon -q $uuid --policy-program=/peer/qrexec-policy-exec "$(domain $vm)" $vm user >>/var/log/peer.log 2>&1
            status=$?
            [ $status -ne 0 ] || break
        done
        result "upstream's daemon of $vm" $status
    done
    for round in $(seq "${FIELD_ROUNDS:-2}"); do through "the C programs" /peer; done
    stop_qrexec
}

# qrexec-bench between the VMs, its table on the console.
bench() {
    [ -S /run/qubes/qrexec.vm2 ] || start_qrexec || return
    run vm1 200 "qrexec-bench --target=vm2 --scenario throughput latency calls --size=${BENCH_SIZE:-8M} --buffer-size=default,1M --runs=${BENCH_RUNS:-1} --counters --quick 2>&1 | sed 's/^/BENCH /'"
    result "qrexec-bench from VM to VM" $?
    run vm2 10 "grep -a cost: /tmp/agent.log | tail -n 12 | sed 's/^.*cost:/BENCH agent:/'"
}

domain_json() {
    echo "\"$1\": {\"name\": \"$1\", \"type\": \"$2\", \"tags\": [], \"template_for_dispvms\": false, \"default_dispvm\": null,
        \"power_state\": \"Running\", \"icon\": \"\", \"internal\": false, \"guivm\": null, \"label\": \"gray\", \"relayvm\": null,
        \"transport_rpc\": null, \"uuid\": \"00000000-0000-0000-0000-00000000000$3\"}"
}

start_qrexec() {
    echo "{\"domains\": {$(domain_json dom0 AdminVM 0), $(domain_json vm1 AppVM 1), $(domain_json vm2 AppVM 2)}}" >/run/system.json
    export QREXEC_SYSTEM_INFO=/run/system.json
    mkdir -p /run/qubes /var/log/qubes
    rm -f /run/ended.vm1 /run/ended.vm2
    for vm in vm1 vm2; do
        start $vm "QREXEC_LOG=info,engine::pump=debug qrexec-agent >/tmp/agent.log 2>&1 & echo \$! >/tmp/agent.pid; head -c 4194304 /dev/urandom >/tmp/data"
        (
            qrexec-daemon -D -u "$(uuid $vm)" "$(domain $vm)" $vm user >/var/log/$vm.log 2>&1
            echo $? "$(ms)" >/run/ended.$vm
        ) &
    done
    tries=100
    until [ -S /run/qubes/qrexec.vm1 ] && [ -S /run/qubes/qrexec.vm2 ]; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || break
        usleep 200000
    done
    [ $tries -gt 0 ]
    status=$?
    result "both agents and daemons are connected" $status
    return $status
}

# says VM SECONDS COMMAND WANTED: what a command in a VM prints
says() {
    run "$1" "$2" "[ \"\$($3)\" = \"$4\" ]"
}

calls() {
    [ -S /run/qubes/qrexec.vm2 ] || start_qrexec || return
    [ "$(qrexec-client -d vm1 'user:id -un; hostname' | tr '\n' ' ')" = "user vm1 " ]
    result "dom0 to a VM" $?
    says vm1 20 "qrexec-client-vm vm2 lab.Who" "vm1 calls vm2"
    status=$?
    result "VM to VM" $status
    [ $status = 0 ] || return
    says vm2 20 "qrexec-client-vm vm1 lab.Who" "vm2 calls vm1"
    result "VM to VM, back" $?
    says vm1 20 "qrexec-client-vm dom0 lab.Who" "vm1 calls dom0"
    result "VM to dom0" $?
    run vm1 20 "qrexec-client-vm vm2 lab.Denied </dev/null"
    result "policy refuses" $? 126
    run vm1 20 "qrexec-client-vm dom0 lab.Echo </dev/null"
    result "policy refuses dom0" $? 126
    run vm1 60 '[ "$(qrexec-client-vm vm2 lab.Sum </tmp/data)" = "$(md5sum </tmp/data)" ]'
    result "4 MiB from VM to VM" $?
    run vm1 60 '[ "$(qrexec-client-vm vm2 lab.Echo </tmp/data | md5sum)" = "$(md5sum </tmp/data)" ]'
    result "4 MiB there and back" $?
    run vm2 60 'QREXEC_ENGINE=uring qrexec-client-vm vm1 lab.Echo </tmp/data | cmp - /tmp/data'
    result "4 MiB there and back by io_uring" $?
    run vm1 60 'qrexec-client-vm --splice vm2 lab.Echo </tmp/data | cmp - /tmp/data'
    result "4 MiB there and back with --splice" $?
    run vm2 60 '[ "$(qrexec-client-vm dom0 lab.Sum </tmp/data)" = "$(md5sum </tmp/data)" ]'
    result "4 MiB from VM to dom0" $?
    head -c 4194304 /dev/urandom >/tmp/data
    [ "$(qrexec-client -d vm2 user:md5sum </tmp/data)" = "$(md5sum </tmp/data)" ]
    result "4 MiB from dom0 to VM" $?
    crowd
}

crowd() {
    [ -S /run/qubes/qrexec.vm2 ] || start_qrexec || return
    before=$(uptime_s)
    run vm1 120 'for i in $(seq 64); do (echo $i | qrexec-client-vm vm2 lab.Echo >/tmp/out.$i 2>/tmp/err.$i) & done; wait;
        cat /tmp/err.*; cat /tmp/out.* | sort -n >/tmp/got; seq 64 | cmp - /tmp/got'
    result "64 calls at once, within $(($(uptime_s) - before)) s" $?
}

# refused NAME PREPARE WORDS REPAIR: with that done in VM1, one call is refused with one line that says WORDS.
refused() {
    run vm1 60 "$2; qrexec-client-vm vm2 lab.Who >/tmp/said 2>&1; status=\$?; $4;
        cat /tmp/said; [ \$status -ne 0 ] && [ \$(wc -l </tmp/said) = 1 ] && grep -q '$3' /tmp/said"
    result "$1: one line, one call" $?
}

# What a VM may run out of. A call that was there before does not notice.
shortages() {
    [ -S /run/qubes/qrexec.vm2 ] || start_qrexec || return
    start vm1 '(sleep 1; echo before; while [ ! -e /tmp/enough ]; do sleep 1; done; echo after) | qrexec-client-vm vm2 lab.Echo >/tmp/lasting;
        [ "$(cat /tmp/lasting | tr "\n" " ")" = "before after " ]'
    lasting=$started
    sleep 3
    limit=/sys/module/xen_gntalloc/parameters/limit
    refused "no more pages can be granted" "echo 40 >$limit" "limit of xen-gntalloc" "echo 16384 >$limit"
    refused "a device is missing" "mv /dev/xen/gntalloc /dev/xen/away" "/dev/xen/gntalloc" "mv /dev/xen/away /dev/xen/gntalloc"
    # Only the C xenstored can be told another quota. While it holds, the VM cannot even say that it is done.
    start vm1 'sleep 2; qrexec-client-vm vm2 lab.Who >/tmp/said 2>&1; sleep 6;
        cat /tmp/said; [ $(wc -l </tmp/said) = 1 ] && grep -q "writing .* to xenstore" /tmp/said'
    sleep 1
    if [ "$xenstored" != oxenstored ] && xenstore-control quota set nodes 10 >/dev/null; then
        sleep 5
        xenstore-control quota set nodes 1000 >/dev/null
        settle "$started" 30
        result "xenstore's quota is reached: one line, one call" $?
    fi
    says vm1 20 "qrexec-client-vm vm2 lab.Who" "vm1 calls vm2"
    result "afterwards calls are as before" $?
    run vm1 5 'touch /tmp/enough'
    settle "$lasting" 20
    result "the call that was there before went on" $?
}

# On a machine of its own a death is known within 1.5 s. Here three domains share two emulated processors, and the news
# of it comes back over a console: DEATH_MS=1500 holds the harness to the figure.
DEATH_MS=${DEATH_MS:-5000}

deaths() {
    [ -S /run/qubes/qrexec.vm2 ] || start_qrexec || return
    start vm1 'qrexec-client-vm vm2 lab.Echo </dev/zero >/dev/null'
    call=$started
    sleep 2
    run vm2 10 'kill -9 $(pidof qrexec-agent); qrexec-agent >/tmp/agent2.log 2>&1 &'
    settle "$call" 5
    [ $? -ne 0 ] && [ $? -ne 99 ]
    result "kill -9 of every process of the agent ends its call" $?
    tries=50
    until says vm1 20 "qrexec-client-vm vm2 lab.Who" "vm1 calls vm2" || [ $tries = 0 ]; do tries=$((tries - 1)) && usleep 200000; done
    [ $tries -gt 0 ]
    result "the next agent takes calls" $?
    start vm1 'qrexec-client-vm vm2 lab.Echo </dev/zero >/dev/null'
    call=$started
    start vm1 'mkfifo /tmp/quiet; exec 3<>/tmp/quiet; echo begins >&3; qrexec-client-vm vm2 lab.Echo <&3 >/tmp/heard'
    quiet=$started
    tries=100
    until says vm1 5 "cat /tmp/heard" begins || [ $tries = 0 ]; do tries=$((tries - 1)) && usleep 200000; done
    xl destroy vm2
    destroyed=$(ms)
    echo "LAB   after xl destroy: $(xl list | awk 'NR > 2 { printf "%s %s %s, ", $1, $2, $5 }')"
    settle "$call" 6
    status=$?
    seen=$(($(ms) - destroyed))
    [ $status -ne 0 ] && [ $status -ne 99 ] && [ $seen -le $DEATH_MS ]
    result "xl destroy of the other VM ends a busy call (status $status, $seen ms after it)" $?
    settle "$quiet" 6
    status=$?
    echo "LAB   later: $(xl list | awk 'NR > 2 { printf "%s %s %s, ", $1, $2, $5 }')"
    seen=$(($(ms) - destroyed))
    [ $status -ne 0 ] && [ $status -ne 99 ] && [ $seen -le $((DEATH_MS + 500)) ]
    result "and an idle one (status $status, $seen ms after it)" $?
    tries=20
    until [ -e /run/ended.vm2 ] || [ $tries = 0 ]; do tries=$((tries - 1)) && usleep 100000; done
    read -r status at 2>/dev/null </run/ended.vm2
    [ "$status" = 0 ] && grep -q "is gone, and so is its daemon" /var/log/vm2.log
    result "its daemon ends (status $status, $((at - destroyed)) ms after it)" $?
    for peers in /var/run/qubes/qrexec-peers /nowhere; do
        says vm1 5 "QREXEC_PEERS_SOCKET=$peers timeout 4 xen_peer join $VM2 999 1 1" "xen_peer join $VM2 999 1 1: FAILED: vchan peer is gone"
        result "a client that looks for it hears of its end, asking $peers" $?
    done
    says vm1 20 "qrexec-client-vm dom0 lab.Who" "vm1 calls dom0"
    result "the other VM still calls" $?
}

# What the daemons and agents had to say, once something has failed.
logs() {
    for vm in vm1 vm2; do tail -n 20 /var/log/$vm.log 2>/dev/null | sed "s/^/dom0: daemon of $vm: /"; done
    run vm1 10 'tail -n 20 /tmp/agent*.log'
    tail -n 5 /var/log/peer.log /var/log/qubes/qrexec.vm* 2>/dev/null | sed "s/^/dom0: /"
    xenstore-exists "/local/domain/$VM2" && run vm2 10 'tail -n 20 /tmp/agent*.log'
}

# A VM whose kernel has failed goes on, and what comes after that is about the failure and about nothing else. Said once.
sound() {
    [ -z "$unsound" ] || return 0
    for vm in vm1 vm2; do
        [ "$vm" != "$excused" ] || continue
        kernel=$(grep -E '\] (BUG: |kernel BUG |Oops: |general protection)' "/var/log/xen/console/guest-$vm.log" | head -n 1 | tr -d '\r')
        [ -z "$kernel" ] || unsound="$unsound, $vm: $kernel"
    done
    [ -z "$unsound" ] || result "THE KERNEL OF A VM FAILED in or before $1; nothing from here on counts${unsound}" 1
}

unsound="" excused=""
for suite in ${SUITES:-rings peers speed kills churn devices ends field calls shortages deaths}; do
    $suite
    sound $suite
done
if [ -z "$failed" ]; then
    echo "LAB all passed, $(cut -d' ' -f1 /proc/uptime) s"
else
    echo "LAB NOT passed:$failed"
    logs
    usleep 500000
fi
