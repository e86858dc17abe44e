#!/bin/bash
# Runnel from a shell: a producer that speaks JSON, with bash and base64 alone.
#
#   RUNNEL_SERVER=nats://TOKEN@127.0.0.1:4222 ./runnel.sh echo hello
#
# RUNNEL_PREFIX is the fleet's prefix, if that is not runnel.
#
# It hands in a command, prints its output as it comes and exits with its exit code. What a worker stores of an
# invocation that came in JSON is JSON too, in one line and with its fields in a fixed order, so that
# patterns can read it.
set -u
export LC_ALL=C # lengths are bytes

fail() { printf 'runnel.sh: %s\n' "$1" >&2; exit 125; }
[ $# -gt 0 ] || fail "usage: runnel.sh COMMAND..."

prefix=${RUNNEL_PREFIX:-runnel} # of subjects and, in upper case, of streams
url=${RUNNEL_SERVER:-nats://127.0.0.1:4222}
[[ ${url#nats://} =~ ^(([^:@]+)(:([^@]*))?@)?([^:/@]+):([0-9]+)/?$ ]] || fail "RUNNEL_SERVER: nats://[TOKEN@|USER:PASSWORD@]HOST:PORT"
user=${BASH_REMATCH[2]} password=${BASH_REMATCH[4]} host=${BASH_REMATCH[5]} port=${BASH_REMATCH[6]}
login=
if [ -n "${BASH_REMATCH[3]}" ]; then login=",\"user\":\"$user\",\"pass\":\"$password\""
elif [ -n "$user" ]; then login=",\"auth_token\":\"$user\""; fi

random() { head -c 256 /dev/urandom | tr -dc 'a-z2-7' | head -c 16; }
id=$(random)
while [ ${#id} -lt 16 ]; do id=$id$(random); id=${id:0:16}; done
inbox=_INBOX.$(random)$(random)
base=$prefix.reply.default.$id

exec 3<>"/dev/tcp/$host/$port" || fail "no server at $host:$port"
printf 'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"lang":"sh","version":"1"%s}\r\n' "$login" >&3
printf 'SUB %s 1\r\nSUB %s.live.default.%s.> 2\r\n' "$inbox" "$prefix" "$id" >&3

publish() { # subject body
  local head=$'NATS/1.0\r\nRunnel-Version: 1.0\r\nContent-Type: application/json\r\n\r\n'
  printf 'HPUB %s %s %d %d\r\n%s%s\r\n' "$1" "$inbox" ${#head} $((${#head} + ${#2})) "$head" "$2" >&3
}

# receive reads the next message into subject, head and body; it fails when nothing came for so many seconds.
receive() {
  local line word fields
  while IFS= read -r -t "$1" line <&3; do
    line=${line%$'\r'}
    word=${line%% *}
    case $word in
      PING) printf 'PONG\r\n' >&3 ;;
      -ERR) fail "$line" ;;
      MSG | HMSG)
        read -r -a fields <<<"$line"
        local total=${fields[-1]} size=0
        [ "$word" = HMSG ] && size=${fields[-2]}
        subject=${fields[1]} head= body=
        if [ "$size" -gt 0 ]; then IFS= read -r -N "$size" head <&3; fi
        if [ "$total" -gt "$size" ]; then IFS= read -r -N $((total - size)) body <&3; fi
        IFS= read -r -N 2 line <&3
        return 0 ;;
    esac
  done
  return 1
}

# request asks, and keeps the live copies that come meanwhile.
kept=()
request() { # subject body
  publish "$1" "$2"
  while receive 5; do
    [ "$subject" = "$inbox" ] && return 0
    kept+=("$subject $body")
  done
  return 1
}

# show prints the pieces in a document. Between the quotes of JSON, a name is what has a colon behind it; quotes within
# text have a backslash before them and so never end a name. Only what stands in the list of pieces counts.
show() { # a chunk, or a result
  local words i stream=stdout inside=
  IFS='"' read -r -a words <<<"$1"
  for ((i = 0; i + 2 < ${#words[@]}; i++)); do
    [[ $inside && ${words[i]} == *]* ]] && return
    case $inside${words[i]}${words[i + 1]} in
      pieces:\[* | tail:\[*) inside=. ;;
      .stream:) stream=${words[i + 2]} ;;
      .data:) if [ "$stream" = stdout ]; then base64 -d <<<"${words[i + 2]}"; else base64 -d <<<"${words[i + 2]}" >&2; fi ;;
      .cut:*) printf 'runnel.sh: %s bytes of %s are not stored\n' "${words[i + 1]//[^0-9]/}" "$stream" >&2 ;;
    esac
  done
}

# stored reads what is stored into body. That there is nothing is the leader's word alone.
stored() { # subject
  if request "\$JS.API.DIRECT.GET.${prefix^^}_REPLY" "{\"last_by_subj\":\"$1\"}" && [[ $head == *Nats-Sequence:* ]]; then return 0; fi
  request "\$JS.API.STREAM.MSG.GET.${prefix^^}_REPLY" "{\"last_by_subj\":\"$1\"}" || return 1
  [[ $body =~ \"data\":\"([A-Za-z0-9+/=]*)\" ]] || return 1
  body=$(base64 -d <<<"${BASH_REMATCH[1]}")
}

run= n=1 old=" "
turn() { # run
  [ "$1" = "$run" ] && return
  if [ -n "$run" ]; then
    old="$old$run "
    printf 'runnel.sh: what was shown so far does not count: run %s\n' "$1" >&2
  fi
  run=$1 n=1
}

fill() { # the last number
  while [ "$n" -le "$1" ]; do
    if stored "$base.$run.$n"; then show "$body"; else printf 'runnel.sh: chunk %d cannot be had\n' "$n" >&2; fi
    n=$((n + 1))
  done
}

field() { # name document: a field of a result. Within text, quotes have a backslash before them.
  [[ $2 =~ [{,]\"$1\":\"?([a-z0-9_-]+) ]] && printf '%s' "${BASH_REMATCH[1]}"
}

finish() { # result
  local result=$1 counted chunks code status
  counted=$(field run "$result") chunks=$(field chunks "$result")
  if [ -n "$counted" ]; then
    turn "$counted"
    fill "${chunks:-0}"
  fi
  show "$result"
  status=$(field status "$result") code=$(field exit_code "$result")
  [ "$status" = succeeded ] || printf 'runnel.sh: %s %s\n' "$status" "$(field reason "$result")" >&2
  if [ -z "$code" ]; then code=125; [ "$status" = succeeded ] && code=0; fi
  [ "$code" -ge 0 ] || code=$((128 - code))
  exit "$code"
}

quote() { # text, as JSON
  local s=$1
  s=${s//\\/\\\\} s=${s//\"/\\\"} s=${s//$'\n'/\\n} s=${s//$'\r'/\\r} s=${s//$'\t'/\\t}
  printf '"%s"' "$s"
}

command=
for word in "$@"; do command=$command${command:+,}$(quote "$word"); done
invocation="{\"invocation_id\":\"$id\",\"runtime_kind\":\"subprocess\",\"command\":[$command]}"
accepted() { [[ $body == *'"seq"'* && $body != *'"error"'* || $body == *'maximum messages per subject'* ]]; } # by then it is ours: the id is random
until request "$prefix.invoke.subprocess.default.normal.0.default.$id" "$invocation" && accepted; do
  [[ $head == *' 503'* ]] && fail "the queue is not set up on this server"
  [[ $body == *'"error"'* && $body != *10077* ]] && fail "$body"
  sleep 1 # full, or no answer: again under the same id
done

while :; do
  if [ ${#kept[@]} -gt 0 ]; then
    subject=${kept[0]%% *} body=${kept[0]#* } kept=("${kept[@]:1}")
  elif ! receive 2; then
    # A live copy may be lost: what counts is what is stored.
    if stored "$base.result"; then finish "$body"; fi
    continue
  fi
  case $subject in
    "$prefix".live.*.result) finish "$body" ;;
    "$prefix".live.*.start | "$prefix".live.*.end) ;;
    "$prefix".live.*)
      number=${subject##*.} name=${subject%.*} name=${name##*.}
      [[ $old == *" $name "* ]] && continue
      turn "$name"
      chunk=$body
      fill $((number - 1))
      if [ "$number" = "$n" ]; then show "$chunk"; n=$((n + 1)); fi ;;
  esac
done
