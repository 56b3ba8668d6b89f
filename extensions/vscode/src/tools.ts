import { randomUUID } from 'node:crypto';
import * as fs from 'node:fs/promises';
import * as path from 'node:path';
import { quote, type Tools } from './launch';

/** What a launch in a session calls: mirrord itself, and files that stand for other programs. */
export class SessionTools {
	private swept?: Promise<void>;

	/** alive lists the ids of all sessions. */
	constructor(private readonly binary: () => string, private readonly extension: string, private readonly dir: string, private readonly alive: () => Promise<string[]>) {}

	/** The tools of a session, until forget(id). */
	async of(id: string): Promise<Tools> {
		await (this.swept ??= this.sweep().catch(() => {})); // what could not be swept holds up no launch
		const mirrord = this.binary();
		return {
			mirrord,
			dlv: await this.link(mirrord),
			lldb: path.join(this.extension, 'lldb', 'mirrord_lldb.py'),
			wrapper: async (program, nativeDebugger) => {
				const dir = path.join(this.wrappers, id);
				await fs.mkdir(dir, { recursive: true, mode: 0o700 });
				const file = path.join(dir, path.basename(program));
				const words = [mirrord, 'exec', ...(nativeDebugger ? ['--debugger'] : []), '--session', id, '--', program];
				await fs.writeFile(file, `#!/bin/sh\nexec ${words.map(quote).join(' ')} "$@"\n`, { mode: 0o755 });
				return file;
			},
		};
	}

	/** Removes the wrappers of sessions whose end no window has heard of. */
	private async sweep(): Promise<void> {
		const there = await this.alive();
		for (const id of await fs.readdir(this.wrappers).catch(() => [])) {
			if (!there.includes(id)) await this.forget(id);
		}
	}

	async forget(id: string): Promise<void> { await fs.rm(path.join(this.wrappers, id), { recursive: true, force: true }); }

	private get wrappers(): string { return path.join(this.dir, 'wrappers'); }

	/** mirrord takes Delve's command line when it is called dlv. */
	private async link(mirrord: string): Promise<string> {
		const file = path.join(this.dir, 'dlv');
		if (await fs.readlink(file).catch(() => '') === mirrord) return file;
		await fs.mkdir(this.dir, { recursive: true });
		const fresh = `${file}.${randomUUID()}`;
		await fs.symlink(mirrord, fresh);
		await fs.rename(fresh, file); // another launch may do the same
		return file;
	}
}

/** Whether a file can be executed. */
export function executable(file: string): Promise<boolean> {
	return fs.access(file, fs.constants.X_OK).then(async () => (await fs.stat(file)).isFile(), () => false);
}
