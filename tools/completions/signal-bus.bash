# bash completion of signal-busctl and the programs of signal-bus.
#
# What there is to complete is read from --help of the program that stands in the line, so that this file never lags
# behind it; here are only the words that some options take.

# The verbs (or benchmarks) of a program.
_signal_bus_verbs() {
  "$1" --help 2>/dev/null | sed -n 's/^  \([a-z][a-z-]*\)  *[^ ].*/\1/p'
}

# The second words of a verb, as `hugepages show`: from its usage.
_signal_bus_subverbs() {
  "$1" "$2" --help 2>/dev/null |
    sed -n "s/^\(Usage: \| *\)${1##*/} $2 \([a-z][a-z-]*\)\( .*\)\{0,1\}\$/\2/p"
}

# The options of a program, or of its verb, on each line "--option", "--option PLACEHOLDER" or "--option this|that".
_signal_bus_options() {
  "$@" --help 2>/dev/null |
    sed -n 's/^ \{1,\}\(--[a-z-]*\), \(--[a-z-]*\).*/\1\n\2/p; t
            s/^ \{1,\}\(--[a-z-]*\) \([A-Z][A-Za-z,:.\[\]*\).*/\1 \2/p; t
            s/^ \{1,\}\(--[a-z-]*\) \([a-z][a-z-]*|[a-z|-]*\).*/\1 \2/p; t
            s/^ \{1,\}\(--[a-z-]*\).*/\1/p'
}

# The words that an option takes.
_signal_bus_words() {
  case $1 in
  --idle) echo spin backoff sleep doorbell ;;
  --policy) echo wait drop-newest overwrite ;;
  --market) echo spot usdm ;;
  --timestamps) echo live capture ;;
  --engine) echo auto scalar avx2 avx512 ;;
  --table) echo auto always never ;;
  --transport) echo auto io_uring epoll ;;
  esac
}

# The members of the bus that the line names with --bus.
_signal_bus_members() {
  local i directory=${SIGNAL_BUS:-/dev/shm/signals}
  for ((i = 1; i + 1 < ${#COMP_WORDS[@]}; i++)); do
    [ "${COMP_WORDS[i]}" = --bus ] && directory=${COMP_WORDS[i + 1]}
  done
  (cd -- "$directory" 2>/dev/null && compgen -f)
}

# The sections of the configuration: of the file in the line, else of the one that systemd's units use.
_signal_bus_sections() {
  local file=${COMP_WORDS[3]-}
  [ -r "$file" ] || file=/etc/signal-bus/signal-bus.ini
  [ -r "$file" ] && sed -n 's/^\[\([A-Za-z0-9._-]*\)\].*/\1/p' "$file" | grep -vx bus
}

_signal_bus() {
  local program=${COMP_WORDS[0]} word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
  local -a call=("$program")
  local verbs placeholder words=
  COMPREPLY=()
  type -P -- "$program" >/dev/null || return 0
  verbs=$(_signal_bus_verbs "$program")
  if [ -n "$verbs" ] && [ "$COMP_CWORD" -gt 1 ]; then
    grep -qxF -- "${COMP_WORDS[1]}" <<<"$verbs" || return 0
    call+=("${COMP_WORDS[1]}")
  fi
  if [[ $before == --* ]]; then
    placeholder=$(_signal_bus_options "${call[@]}" | sed -n "s/^$before //p")
    case $placeholder in
    '') ;;
    *'|'*) mapfile -t COMPREPLY < <(compgen -W "${placeholder//|/ }" -- "$word"); return 0 ;;
    DIR*) mapfile -t COMPREPLY < <(compgen -d -- "$word"); compopt -o filenames 2>/dev/null; return 0 ;;
    FILE*) mapfile -t COMPREPLY < <(compgen -f -- "$word"); compopt -o filenames 2>/dev/null; return 0 ;;
    USER) mapfile -t COMPREPLY < <(compgen -u -- "$word"); return 0 ;;
    GROUP) mapfile -t COMPREPLY < <(compgen -g -- "$word"); return 0 ;;
    *)
      words=$(_signal_bus_words "$before")
      case $before in --bridge | --feed | --infer | --consumer) words=$(_signal_bus_members) ;; esac
      mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
      return 0
      ;;
    esac
  fi
  if [[ $word != -* ]]; then
    if [ -n "$verbs" ] && [ "$COMP_CWORD" -eq 1 ]; then
      words=$verbs
    elif [ "${program##*/}" = signal-busctl ]; then
      case ${COMP_WORDS[1]}:$COMP_CWORD in
      run:2) words=$(_signal_bus_sections) ;;
      run:* | up:*) mapfile -t COMPREPLY < <(compgen -f -- "$word"); compopt -o filenames 2>/dev/null; return 0 ;;
      info:*) words=$(_signal_bus_members) ;;
      *:2) words=$(_signal_bus_subverbs "${call[@]}") ;;
      esac
    fi
  fi
  if [ -z "$words" ]; then
    words=$(_signal_bus_options "${call[@]}" | cut -d' ' -f1)
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}

complete -F _signal_bus signal-busctl bus-ask bus-bench bus-bridge bus-feed bus-infer bus-record bus-replay bus-trader
