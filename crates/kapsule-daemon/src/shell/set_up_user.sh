# Makes the caller's account inside, or makes it right: /bin/sh of the container runs this as root.
# Arguments: NAME UID GID HOME SHELL [GROUP:GID]…
# The account files are edited here and not by useradd and its kin: those are different everywhere, refuse to rename who is
# logged in, and change the owner of files in a home that is the host's.
set -eu
umask 022
name=$1 uid=$2 gid=$3 home=$4 shell=$5
shift 5

fail() { echo "$1"; exit 1; }

# shadow-utils' own locks, so that nobody else edits meanwhile.
locked=
unlock() { for file in $locked; do rm -f "/etc/$file.lock"; done; }
trap unlock EXIT
trap 'exit 1' HUP INT TERM
for file in passwd group shadow gshadow subuid subgid; do
    tries=0
    until (set -C; echo $$ >"/etc/$file.lock") 2>/dev/null; do
        tries=$((tries + 1))
        holder=$(cat "/etc/$file.lock" 2>/dev/null) || holder=
        # What a process left that is not there any more.
        if [ -n "$holder" ] && ! kill -0 "$holder" 2>/dev/null; then rm -f "/etc/$file.lock"; continue; fi
        [ "$tries" -lt 300 ] || fail "/etc/$file.lock has been there for too long; if nothing inside edits accounts, remove it"
        sleep 0.1
    done
    locked="$locked $file"
done

# replace FILE: what comes in takes its place, with the same owner and mode.
replace() {
    cp -p "/etc/$1" "/etc/$1.kapsule"
    cat >"/etc/$1.kapsule"
    mv -f "/etc/$1.kapsule" "/etc/$1"
}
# fields LINE: sets f1 to f4, and tail, which is what comes after the fourth.
fields() {
    f1=${1%%:*}; tail=${1#*:}
    f2=${tail%%:*}; tail=${tail#*:}
    f3=${tail%%:*}; tail=${tail#*:}
    f4=${tail%%:*}; tail=${tail#*:}
}
# add FILE LINE: at the end, also if the last line has none.
add() {
    if [ -s "/etc/$1" ] && [ -n "$(tail -c 1 "/etc/$1")" ]; then echo >>"/etc/$1"; fi
    printf '%s\n' "$2" >>"/etc/$1"
}
has_line() { # FILE NAME
    while IFS= read -r line || [ -n "$line" ]; do [ "${line%%:*}" != "$2" ] || return 0; done <"/etc/$1"
    return 1
}
gid_of() { # NAME
    while IFS= read -r line || [ -n "$line" ]; do
        fields "$line"
        if [ "$f1" = "$1" ]; then echo "$f3"; return 0; fi
    done </etc/group
    return 1
}
has_gid() {
    while IFS= read -r line || [ -n "$line" ]; do fields "$line"; [ "$f3" != "$1" ] || return 0; done </etc/group
    return 1
}

[ -e /etc/passwd ] || : >/etc/passwd
[ -e /etc/group ] || : >/etc/group

# The shell, if it is here.
for candidate in "$shell" "/bin/${shell##*/}" "/usr/bin/${shell##*/}" /bin/bash /usr/bin/bash /bin/sh; do
    case $candidate in */nologin | */false) continue ;; esac
    if [ -x "$candidate" ] && [ ! -d "$candidate" ]; then shell=$candidate; break; fi
done

# The account.
before= same=
while IFS= read -r line || [ -n "$line" ]; do
    fields "$line"
    if [ "$f3" = "$uid" ] && [ -z "$before" ]; then before=$f1; fi
    if [ "$f1" = "$name" ]; then same=$f3; fi
done </etc/passwd
if [ -n "$same" ] && [ "$same" != "$uid" ] && [ "$same" -lt 1000 ]; then
    fail "the container has an account of its own that is called '$name' (uid $same); it cannot be yours as well"
fi
written=
while IFS= read -r line || [ -n "$line" ]; do
    fields "$line"
    if [ "$f3" = "$uid" ] || [ "$f1" = "$name" ]; then
        # One line, whichever of the two it was.
        [ -n "$written" ] || printf '%s:x:%s:%s:%s:%s:%s\n' "$name" "$uid" "$gid" "" "$home" "$shell"
        written=1
    else
        printf '%s\n' "$line"
    fi
done </etc/passwd | replace passwd
has_line passwd "$name" || add passwd "$name:x:$uid:$gid::$home:$shell"

# No password: nobody logs in by one, and nothing is locked.
if [ -e /etc/shadow ]; then
    if [ -n "$before" ] && [ "$before" != "$name" ]; then
        while IFS= read -r line || [ -n "$line" ]; do
            case $line in "$before":* | "$name":*) ;; *) printf '%s\n' "$line" ;; esac
        done </etc/shadow | replace shadow
    fi
    has_line shadow "$name" || add shadow "$name:*:19000:0:99999:7:::"
fi

# Groups: the primary one, then those that the user has outside, by name; a number of its own if it is taken here.
if ! has_gid "$gid"; then
    own=$name
    if has_line group "$own"; then own="kapsule-$gid"; fi
    add group "$own:x:$gid:"
fi
free=59999
wanted=" "
for entry in "$@"; do
    group=${entry%:*} number=${entry##*:}
    [ "$number" != 0 ] && [ "$number" != "$gid" ] || continue
    wanted="$wanted$group "
    if ! gid_of "$group" >/dev/null; then
        if has_gid "$number"; then
            while has_gid "$free"; do free=$((free - 1)); done
            number=$free
        fi
        add group "$group:x:$number:"
    fi
done
while IFS= read -r line || [ -n "$line" ]; do
    fields "$line"
    members=
    rest=$f4,
    while [ -n "$rest" ]; do
        member=${rest%%,*}; rest=${rest#*,}
        # Who was renamed goes on as the new one.
        if [ -n "$before" ] && [ "$member" = "$before" ]; then member=$name; fi
        case ",$members," in *",$member,"*) continue ;; esac
        [ -z "$member" ] || members="$members${members:+,}$member"
    done
    case $wanted in *" $f1 "*)
        case ",$members," in *",$name,"*) ;; *) members="$members${members:+,}$name" ;; esac ;;
    esac
    case $line in *:*:*:*) printf '%s:%s:%s:%s\n' "$f1" "$f2" "$f3" "$members" ;; *) printf '%s\n' "$line" ;; esac
done </etc/group | replace group

# Containers in the container: numbers for rootless engines, of those that there are here.
for file in subuid subgid; do
    [ -e "/etc/$file" ] || : >"/etc/$file"
    if ! has_line "$file" "$name"; then
        limit=0
        while read -r first _ count; do
            [ $((first + count)) -le "$limit" ] || limit=$((first + count))
        done <"/proc/self/${file#sub}_map"
        for start in 524288 65536; do
            while IFS= read -r line || [ -n "$line" ]; do
                fields "$line::::"
                end=$((${f2:-0} + ${f3:-0}))
                [ "$end" -le "$start" ] || start=$end
            done <"/etc/$file"
            if [ $((start + 65536)) -le "$limit" ]; then
                add "$file" "$name:$start:65536"
                break
            fi
        done
    fi
done

# podman keeps what it has in the home; in one that is the host's, it would meet the host's podman there, and that of other
# containers, and none of them knows of the others. So it is kept in the container.
podman=/var/lib/kapsule/podman
if grep -qF " $home " /proc/self/mountinfo; then
    mkdir -p "$podman/$uid"
    chmod 0700 "$podman/$uid"
    chown "$uid:$gid" "$podman/$uid"
    cat >"$podman/storage.conf" <<END
[storage]
driver = "overlay"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
rootless_storage_path = "$podman/\$UID"
END
    # For services of the user's.
    if [ -d /etc/systemd/system ]; then
        mkdir -p "/etc/systemd/system/user@$uid.service.d"
        printf '[Service]\nEnvironment=CONTAINERS_STORAGE_CONF=%s/storage.conf\n' "$podman" \
            >"/etc/systemd/system/user@$uid.service.d/kapsule.conf"
    fi
fi

# Root without a password: who is in the container is its administrator. By number, which needs no quoting.
if [ -e /etc/sudoers ] || [ -d /etc/sudoers.d ] || command -v sudo >/dev/null 2>&1; then
    mkdir -p /etc/sudoers.d
    printf '#%s ALL=(ALL:ALL) NOPASSWD: ALL\n' "$uid" >"/etc/sudoers.d/.kapsule-$uid"
    chmod 0440 "/etc/sudoers.d/.kapsule-$uid"
    mv -f "/etc/sudoers.d/.kapsule-$uid" "/etc/sudoers.d/kapsule-$uid"
fi
if command -v doas >/dev/null 2>&1; then
    mkdir -p /etc/doas.d
    echo "permit nopass $name" >"/etc/doas.d/kapsule-$uid.conf"
    chmod 0400 "/etc/doas.d/kapsule-$uid.conf"
fi

# The home, unless it is there: then it is the host's, or was made before.
if [ ! -e "$home" ]; then
    mkdir -p "${home%/*}/"
    mkdir -m 0700 "$home"
    if [ -d /etc/skel ]; then cp -R /etc/skel/. "$home/"; fi
    chown -R "$uid:$gid" "$home"
fi

# The service manager of the user runs from the start, and with it the session bus.
if [ -d /var/lib/systemd ]; then
    mkdir -p /var/lib/systemd/linger
    : >"/var/lib/systemd/linger/$name"
    if [ -n "$before" ] && [ "$before" != "$name" ]; then rm -f "/var/lib/systemd/linger/$before"; fi
fi

mkdir -p /var/lib/kapsule/users
: >"/var/lib/kapsule/users/$uid"
