# KairoOS: which slot boots. The first half of boot.scr; start.cmd is the second.
#
# Reads the state area (raw sectors in the format of `env import -c`), chooses a slot, and uses up
# one attempt before a slot on trial is tried. Writes attempt tokens and the canary, never a record
# or a seal. The operating system's counterpart is init/slots/src/loader.rs; a test boots this text
# and compares the two. For U-Boot 2023.01 and later without setexpr, hence no arithmetic.
#
# In: devtype, devnum (set by bootflow). Out: slot, then (the slot to try if that does not load, or
# none), katt (attempt, 0 for none), kseq, from.

# The version that the operating system expects.
setenv kver 1
# Memory for one sector. RAM begins elsewhere on each board, so there is no one address for all.
setenv ka "${kernel_addr_r}"
if test -z "${ka}"; then setenv ka 0x3000000; fi
${devtype} dev ${devnum}

# The records. A failed read leaves memory as it is, so it is cleared before each.
setenv use ; setenv kseq ; setenv kact ; setenv ktry ; setenv knon
mw.b ${ka} 0 0x200
${devtype} read ${ka} 0x3000 1
if env import -c ${ka} 0x200 kseq kact ktry knon; then
  if test "${kact}" = a -o "${kact}" = b; then if test "${kseq}" -gt 0; then
    setenv use 0; setenv s0 "${kseq}"; setenv a0 "${kact}"; setenv t0 "${ktry}"; setenv n0 "${knon}"
  fi; fi
fi
setenv kseq ; setenv kact ; setenv ktry ; setenv knon
mw.b ${ka} 0 0x200
${devtype} read ${ka} 0x3800 1
if env import -c ${ka} 0x200 kseq kact ktry knon; then
  if test "${kact}" = a -o "${kact}" = b; then if test "${kseq}" -gt 0; then
    if test "${use}" = 0; then
      if test "${kseq}" -gt "${s0}"; then setenv use 1; fi
    else
      setenv use 1
    fi
  fi; fi
fi
if test "${use}" = 0; then
  setenv kseq "${s0}"; setenv kact "${a0}"; setenv ktry "${t0}"; setenv knon "${n0}"
fi

# The seals: which slot holds a committed system, and since which record.
setenv qa 0; setenv sseq
mw.b ${ka} 0 0x200
${devtype} read ${ka} 0x3010 1
if env import -c ${ka} 0x200 sseq; then
  if test "${sseq}" -gt 0; then setenv qa "${sseq}"; fi
fi
setenv qb 0; setenv sseq
mw.b ${ka} 0 0x200
${devtype} read ${ka} 0x3810 1
if env import -c ${ka} 0x200 sseq; then
  if test "${sseq}" -gt 0; then setenv qb "${sseq}"; fi
fi

setenv from record
if test -z "${use}"; then
  # No record is whole: the seal with the larger number, or else slot a.
  setenv kseq 0; setenv ktry ; setenv kact a; setenv from blind
  if test "${qa}" -gt 0; then setenv from seals; fi
  if test "${qb}" -gt "${qa}"; then setenv kact b; setenv from seals; fi
fi
if test "${ktry}" != a -a "${ktry}" != b; then setenv ktry ; fi
if test "${ktry}" = "${kact}"; then setenv ktry ; fi
if test -z "${knon}"; then setenv ktry ; fi

# A trial: the first attempt whose token does not carry this trial's nonce yet. A token that
# cannot be written is an attempt that is not made.
setenv slot ; setenv katt 0
if test -n "${ktry}"; then
  for i in 1 2 3; do
    if test -z "${slot}"; then
      setenv anon
      mw.b ${ka} 0 0x200
      ${devtype} read ${ka} 0x30${i}8 1
      env import -c ${ka} 0x200 anon
      if test "${anon}" != "${knon}"; then
        setenv anon "${knon}"
        env export -c -s 0x200 ${ka} anon
        if ${devtype} write ${ka} 0x30${i}8 1; then setenv slot "${ktry}"; setenv katt ${i}; fi
      fi
    fi
  done
fi
if test -z "${slot}"; then setenv slot "${kact}"; fi

# What is tried if its kernel does not load: the active slot behind a trial; behind the active
# slot the other one, if it was ever committed.
setenv then none
if test "${slot}" = a; then setenv other b; setenv qo "${qb}"; else setenv other a; setenv qo "${qa}"; fi
if test "${slot}" != "${kact}"; then setenv then "${other}"; fi
if test "${qo}" -gt 0; then setenv then "${other}"; fi
if test "${from}" = blind; then setenv then "${other}"; fi

# The canary tells the operating system which record was seen, and by which script.
setenv cseq ; setenv cver ; setenv same
mw.b ${ka} 0 0x200
${devtype} read ${ka} 0x3020 1
env import -c ${ka} 0x200 cseq cver
if test "${cseq}" = "${kseq}" -a "${cver}" = "${kver}"; then setenv same 1; fi
if test -z "${same}"; then
  setenv cseq "${kseq}"; setenv cver "${kver}"
  env export -c -s 0x200 ${ka} cseq cver
  ${devtype} write ${ka} 0x3020 1
fi
echo "KBOOT slot=${slot} attempt=${katt} seq=${kseq} from=${from} else=${then}"
