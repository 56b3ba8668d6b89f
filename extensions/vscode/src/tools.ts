import * as fs from 'node:fs/promises';
import * as path from 'node:path';
import { quote, type Tools } from './launch';

/** What a launch in a session calls: mirrord itself, and files that stand for other programs. */
export class SessionTools {
	constructor(private readonly binary: () => string, private readonly dir: string) {}

	/** Removes the wrappers of sessions whose end no window has heard of. */
	async sweep(before: number): Promise<void> {
		for (const name of await fs.readdir(this.wrappers).catch(() => [])) {
			const file = path.join(this.wrappers, name);
			const s = await fs.stat(file).catch(() => undefined);
			if (s && s.mtimeMs < before) await fs.rm(file, { recursive: true, force: true });
		}
	}

	/** The tools of a session, until forget(id). */
	async of(id: string): Promise<Tools> {
		const mirrord = this.binary();
		return {
			mirrord,
			dlv: await this.link(mirrord),
			wrapper: async (program, nativeDebugger) => {
				const dir = path.join(this.wrappers, id);
				await fs.mkdir(dir, { recursive: true, mode: 0o700 });
				const file = path.join(dir, path.basename(program));
				const words = [mirrord, 'exec', ...(nativeDebugger ? ['--debugger'] : []), '--session', id, '--', program];
				await fs.writeFile(file, `#!/bin/sh\nexec ${words.map(quote).join(' ')} "$@"\n`, { mode: 0o755 });
				return file;
			},
			executable: (file) => fs.access(file, fs.constants.X_OK).then(async () => (await fs.stat(file)).isFile(), () => false),
		};
	}

	async forget(id: string): Promise<void> { await fs.rm(path.join(this.wrappers, id), { recursive: true, force: true }); }

	private get wrappers(): string { return path.join(this.dir, 'wrappers'); }

	/** mirrord takes Delve's command line when it is called dlv. */
	private async link(mirrord: string): Promise<string> {
		const file = path.join(this.dir, 'dlv');
		if (await fs.readlink(file).catch(() => '') === mirrord) return file;
		await fs.mkdir(this.dir, { recursive: true });
		const fresh = `${file}.${process.pid}`;
		await fs.symlink(mirrord, fresh);
		await fs.rename(fresh, file); // another window may do the same
		return file;
	}
}
