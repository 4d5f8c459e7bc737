# KairoOS: loads and starts the chosen slot. The second half of boot.scr, behind select.cmd.
#
# A slot's first partition (2 or 4) holds `kernel` and `boot.env`, 4096 bytes in the format of
# `env import -c`: ksum, the CRC-32 of the kernel, and karga and kargb, its command line in slot a
# and in slot b, with the root's verity table (dm-mod.create). Both are there, so that a release has
# the same bytes in either slot. A kernel that is missing, or not the one that was installed, is
# never started; the other slot is, in this same boot. It ends in a reset and never at a prompt.

setenv kl "${kernel_addr_r}"
if test -z "${kl}"; then setenv kl 0x3000000; fi
setenv kw "${ramdisk_addr_r}"
if test -z "${kw}"; then setenv kw 0x2000000; fi
# A board's firmware hands over its device tree; virt and x86 have none to choose.
setenv kf "${fdt_addr}"
if test -z "${kf}"; then setenv kf "${fdtcontroladdr}"; fi

for s in ${slot} ${then}; do
  if test "${s}" != none; then
    if test "${s}" = b; then setenv kp 4; else setenv kp 2; fi
    setenv ksum ; setenv karga ; setenv kargb ; setenv good
    mw.b ${kw} 0 0x1000
    if load ${devtype} ${devnum}:${kp} ${kw} boot.env 0x1000; then
      if env import -c ${kw} 0x1000 ksum karga kargb; then
        if load ${devtype} ${devnum}:${kp} ${kl} kernel; then
          # Stored with its first byte first; ksum is that, read as a number.
          crc32 ${kl} ${filesize} ${kw}
          if itest.l *${kw} == 0x${ksum}; then setenv good 1; fi
        fi
      fi
    fi
    if test "${good}" = 1; then
      echo "KBOOT start slot=${s}"
      if test "${s}" = b; then setenv kargs "${kargb}"; else setenv kargs "${karga}"; fi
      setenv bootargs "${kargs} kairo.slot=${s} kairo.attempt=${katt} kairo.seq=${kseq} kairo.from=${from}"
      if test "${arch}" = x86; then
        zboot ${kl} ${filesize}
      else
        booti ${kl} - ${kf}
      fi
    fi
    echo "KBOOT slot ${s} does not start"
  fi
done
echo "KBOOT nothing starts: reset"
reset
