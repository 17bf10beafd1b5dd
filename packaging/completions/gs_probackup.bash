# Completions of gs_probackup for bash.
_gs_probackup() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} options
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W 'init add-instance set-config show-config show backup restore validate merge delete set-backup del-instance dss dss-restore demo completions help version' -- "$word"))
        return
    fi
    # A value after an equals sign comes as a word of its own.
    [[ $word == = ]] && word=
    [[ $before == = ]] && before=${COMP_WORDS[COMP_CWORD-2]}
    case $before in
    --archive-dir) return ;;
    --archive-timeout) return ;;
    --au-size) return ;;
    -i|--backup-id) return ;;
    -b|--backup-mode) COMPREPLY=($(compgen -W 'FULL PTRACK DELTA' -- "$word")); return ;;
    -B|--backup-path) COMPREPLY=($(compgen -f -- "$word")); return ;;
    --compress-algorithm) COMPREPLY=($(compgen -W 'zlib lz4 zstd pglz none' -- "$word")); return ;;
    --compress-level) return ;;
    --dir) COMPREPLY=($(compgen -f -- "$word")); return ;;
    --dss-conf) COMPREPLY=($(compgen -f -- "$word")); return ;;
    --error-log-filename) return ;;
    --expire-time) return ;;
    -E|--external-dirs) COMPREPLY=($(compgen -f -- "$word")); return ;;
    --external-mapping) return ;;
    --format) COMPREPLY=($(compgen -W 'plain json' -- "$word")); return ;;
    -I|--incremental-mode) COMPREPLY=($(compgen -W 'none checksum lsn' -- "$word")); return ;;
    --instance) return ;;
    --instance-id) return ;;
    --io-engine) COMPREPLY=($(compgen -W 'auto ring sync' -- "$word")); return ;;
    --log-directory) COMPREPLY=($(compgen -f -- "$word")); return ;;
    --log-filename) return ;;
    --log-level-console) COMPREPLY=($(compgen -W 'off error warning info log verbose' -- "$word")); return ;;
    --log-level-file) COMPREPLY=($(compgen -W 'off error warning info log verbose' -- "$word")); return ;;
    --log-rotation-age) return ;;
    --log-rotation-size) return ;;
    --note) return ;;
    -W|--password) return ;;
    -D|--pgdata) COMPREPLY=($(compgen -f -- "$word")); return ;;
    -d|--pgdatabase) return ;;
    -h|--pghost) COMPREPLY=($(compgen -f -- "$word")); return ;;
    -p|--pgport) return ;;
    -U|--pguser) return ;;
    --recovery-target-inclusive) COMPREPLY=($(compgen -W 'true false' -- "$word")); return ;;
    --recovery-target-lsn) return ;;
    --recovery-target-name) return ;;
    --recovery-target-time) return ;;
    --recovery-target-xid) return ;;
    --restore-command) return ;;
    --retention-redundancy) return ;;
    --retention-window) return ;;
    -t|--rw-timeout) return ;;
    --seed) return ;;
    --set-aside) return ;;
    --size) return ;;
    -S|--slot) return ;;
    --socketpath) return ;;
    --status) COMPREPLY=($(compgen -W 'OK DONE RUNNING MERGING DELETING CORRUPT ERROR ORPHAN' -- "$word")); return ;;
    -T|--tablespace-mapping) return ;;
    -j|--threads) return ;;
    --ttl) return ;;
    --vg) return ;;
    --vgname) return ;;
    --wal-depth) return ;;
    esac
    case ${COMP_WORDS[1]} in
    init) options='--backup-path --help' ;;
    add-instance) options='--backup-path --pgdata --instance --external-dirs --compress-algorithm --compress-level --enable-dss --vgname --socketpath --instance-id --vg --dss-conf --help' ;;
    set-config) options='--backup-path --instance --pgdata --external-dirs --archive-timeout --restore-command --pgdatabase --pghost --pgport --pguser --retention-redundancy --retention-window --wal-depth --compress-algorithm --compress-level --compress --log-level-console --log-level-file --log-filename --error-log-filename --log-directory --log-rotation-size --log-rotation-age --enable-dss --vgname --socketpath --instance-id --help' ;;
    show-config) options='--backup-path --instance --format --help' ;;
    show) options='--backup-path --instance --backup-id --archive --format --help' ;;
    backup) options='--backup-path --instance --backup-mode --pgdata --offline --smooth-checkpoint --slot --temp-slot --archive-timeout --rw-timeout --backup-pg-log --backup-pg-replslot --no-validate --skip-block-validation --external-dirs --no-sync --note --pgdatabase --pghost --pgport --pguser --no-password --password --compress-algorithm --compress-level --compress --delete-expired --merge-expired --delete-wal --retention-redundancy --retention-window --wal-depth --dry-run --ttl --expire-time --enable-dss --vgname --socketpath --instance-id --vg --dss-conf --threads --progress --io-engine --log-level-console --log-level-file --log-filename --error-log-filename --log-directory --log-rotation-size --log-rotation-age --help' ;;
    restore) options='--backup-path --instance --pgdata --backup-id --force --no-sync --no-validate --skip-block-validation --tablespace-mapping --external-mapping --skip-external-dirs --incremental-mode --restore-command --recovery-target-time --recovery-target-xid --recovery-target-lsn --recovery-target-name --recovery-target-inclusive --immediate --archive-dir --enable-dss --vgname --socketpath --instance-id --vg --dss-conf --threads --progress --io-engine --log-level-console --log-level-file --log-filename --error-log-filename --log-directory --log-rotation-size --log-rotation-age --help' ;;
    validate) options='--backup-path --instance --backup-id --skip-block-validation --recovery-target-time --recovery-target-xid --recovery-target-lsn --recovery-target-name --recovery-target-inclusive --immediate --archive-dir --threads --progress --io-engine --log-level-console --log-level-file --log-filename --error-log-filename --log-directory --log-rotation-size --log-rotation-age --help' ;;
    merge) options='--backup-path --instance --backup-id --dry-run --no-validate --no-sync --threads --progress --io-engine --log-level-console --log-level-file --log-filename --error-log-filename --log-directory --log-rotation-size --log-rotation-age --help' ;;
    delete) options='--backup-path --instance --backup-id --status --delete-expired --merge-expired --delete-wal --retention-redundancy --retention-window --wal-depth --dry-run --threads --progress --io-engine --log-level-console --log-level-file --log-filename --error-log-filename --log-directory --log-rotation-size --log-rotation-age --help' ;;
    set-backup) options='--backup-path --instance --backup-id --note --ttl --expire-time --help' ;;
    del-instance) options='--backup-path --instance --threads --progress --io-engine --log-level-console --log-level-file --log-filename --error-log-filename --log-directory --log-rotation-size --log-rotation-age --help' ;;
    dss) options='--recursive --long --all --format --no-sync --io-engine --vg --dss-conf --au-size --dry-run --yes --help ls stat cat cp check cv adv wipe' ;;
    dss-restore) options='--backup-path --instance --pgdata --backup-id --dry-run --format --no-sync --no-validate --skip-block-validation --external-mapping --skip-external-dirs --restore-command --recovery-target-time --recovery-target-xid --recovery-target-lsn --recovery-target-name --recovery-target-inclusive --immediate --archive-dir --vgname --socketpath --instance-id --vg --dss-conf --au-size --other-cluster --set-aside --yes --threads --progress --io-engine --log-level-console --log-level-file --log-filename --error-log-filename --log-directory --log-rotation-size --log-rotation-age --help' ;;
    demo) options='--size --dir --keep --seed --threads --progress --io-engine --help' ;;
    completions) options='--help bash zsh fish' ;;
    help) options='init add-instance set-config show-config show backup restore validate merge delete set-backup del-instance dss dss-restore demo completions help version' ;;
    esac
    COMPREPLY=($(compgen -W "$options" -- "$word"))
}
complete -o filenames -F _gs_probackup gs_probackup
